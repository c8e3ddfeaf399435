"""Quantized matrices on NVIDIA GPUs: bitsandbytes' linear layers as a Matrix.

bitsandbytes is optional (`pip install olla[cuda]`) and imported when the first matrix is made.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from olla.errors import BadInput


class BnbMatrix:
    """Weights in bitsandbytes' int8 or nf4."""

    def __init__(self, weights: Tensor, device: torch.device, *, is_four_bit: bool) -> None:
        """Args:
        weights: (out_features, in_features), in the precision that is computed in, on the CPU:
            bitsandbytes quantizes them on their way to `device`.

        Raises:
            BadInput: bitsandbytes is not installed.
        """
        rows, columns = weights.shape
        self._layer = (_nf4_layer if is_four_bit else _int8_layer)(weights, device)
        self.shape = (rows, columns)
        self.like = torch.empty(0, dtype=weights.dtype, device=device)
        self.num_bytes = int(self._layer.weight.nbytes)

    def multiply(self, inputs: Tensor) -> Tensor:
        product: Tensor = self._layer(inputs)
        return product

    def rows(self, numbers: Tensor) -> Tensor:
        # As products with one-hot inputs, since each kind of layer keeps them in its own way.
        whole = self.multiply(torch.eye(self.shape[1]).to(self.like))
        return whole.T[numbers]


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


def _bitsandbytes() -> Any:
    try:
        import bitsandbytes  # noqa: PLC0415 - optional, and seconds to import
    except ImportError as error:
        raise BadInput(
            "quantizing on a GPU needs bitsandbytes; install it with: pip install 'olla[cuda]'"
        ) from error
    return bitsandbytes
