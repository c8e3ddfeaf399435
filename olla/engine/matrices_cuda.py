"""Quantized matrices on NVIDIA GPUs: bitsandbytes' linear layers as a Matrix.

bitsandbytes is optional (`pip install olla[cuda]`) and imported when the first matrix is made.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, Self

import torch
from torch import Tensor

from olla.engine.matrices import BnbTensor, RawTensor, TorchMatrices
from olla.errors import BadInput
from olla.formats.bitsandbytes import format_quant_state


class BnbMatrix:
    """Weights in bitsandbytes' int8 or nf4."""

    def __init__(self, weights: Tensor, device: torch.device, *, is_four_bit: bool) -> None:
        """Args:
        weights: (out_features, in_features), in the precision that is computed in, on the CPU:
            bitsandbytes quantizes them on their way to `device`.

        Raises:
            BadInput: bitsandbytes is not installed.
        """
        layer = (_nf4_layer if is_four_bit else _int8_layer)(weights, device)
        self._take(layer, weights.shape, torch.empty(0, dtype=weights.dtype, device=device))

    @classmethod
    def filed(cls, tensor: BnbTensor, like: Tensor) -> Self:
        """What a file has packed, as it is; computes in the dtype and on the device of `like`."""
        matrix = cls.__new__(cls)
        layer = (_filed_int8_layer if tensor.state is None else _filed_layer)(tensor, like)
        matrix._take(layer, tensor.shape, like)
        return matrix

    def _take(self, layer: Any, shape: tuple[int, ...], like: Tensor) -> None:
        self._layer = layer
        self.shape = (shape[0], shape[1])
        self.like = like
        self.num_bytes = int(layer.weight.nbytes)

    def multiply(self, inputs: Tensor) -> Tensor:
        product: Tensor = self._layer(inputs)
        return product

    def rows(self, numbers: Tensor) -> Tensor:
        # As products with one-hot inputs, since each kind of layer keeps them in its own way.
        whole = self.multiply(torch.eye(self.shape[1]).to(self.like))
        return whole.T[numbers]


class BnbMatrices(TorchMatrices):
    """Those of torch, and on a GPU what bitsandbytes packed as it is."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype

    def filed(self, tensor: RawTensor | BnbTensor, device: torch.device) -> BnbMatrix | None:
        if not isinstance(tensor, BnbTensor) or device.type != "cuda":
            return None
        return BnbMatrix.filed(tensor, torch.empty(0, dtype=self._dtype, device=device))


def has_bitsandbytes() -> bool:
    return find_spec("bitsandbytes") is not None


def _int8_layer(weights: Tensor, device: torch.device) -> Any:
    layers = _bitsandbytes().nn
    rows, columns = weights.shape
    layer = layers.Linear8bitLt(
        columns, rows, bias=False, has_fp16_weights=False, threshold=6.0, device="meta"
    )
    layer.weight = layers.Int8Params(weights, requires_grad=False, has_fp16_weights=False).to(
        device
    )
    return layer


def _nf4_layer(weights: Tensor, device: torch.device) -> Any:
    layers = _bitsandbytes().nn
    rows, columns = weights.shape
    layer = layers.Linear4bit(
        columns, rows, bias=False, compute_dtype=weights.dtype, quant_type="nf4", device="meta"
    )
    layer.weight = layers.Params4bit(weights, requires_grad=False, quant_type="nf4").to(device)
    return layer


def _filed_layer(tensor: BnbTensor, like: Tensor) -> Any:
    """In nf4 or fp4."""
    layers = _bitsandbytes().nn
    assert tensor.state is not None
    kind = tensor.state.quant_type
    rows, columns = tensor.shape
    layer = layers.Linear4bit(
        columns, rows, bias=False, compute_dtype=like.dtype, quant_type=kind, device="meta"
    )
    text = torch.tensor(list(format_quant_state(tensor.state)), dtype=torch.uint8)
    stats = {**tensor.companions, f"quant_state.bitsandbytes__{kind}": text}
    layer.weight = layers.Params4bit.from_prequantized(
        tensor.values.view(-1, 1), stats, requires_grad=False, device=like.device
    )
    return layer


def _filed_int8_layer(tensor: BnbTensor, like: Tensor) -> Any:
    layers = _bitsandbytes().nn
    rows, columns = tensor.shape
    layer = layers.Linear8bitLt(
        columns, rows, bias=False, has_fp16_weights=False, threshold=6.0, device="meta"
    )
    values = tensor.values.to(like.device)
    layer.weight = layers.Int8Params(
        values, requires_grad=False, has_fp16_weights=False,
        CB=values, SCB=tensor.companions["SCB"].to(like.device),
    )  # fmt: skip
    return layer


def _bitsandbytes() -> Any:
    try:
        import bitsandbytes  # noqa: PLC0415 - optional, and seconds to import
    except ImportError as error:
        raise BadInput(
            "quantizing on a GPU needs bitsandbytes; install it with: pip install 'olla[cuda]'"
        ) from error
    return bitsandbytes
