"""Packed: a matrix in the layout of the compiled core; and Packing, which makes them.

Rows stand in groups, as many as the core's vectors have lanes, and columns in blocks of 32 (core.h
and layout.h); what is missing of the last group is zeros. GGUF's quantized blocks keep their values
bit for bit, with scales in half precision, in about the size of the file. Float weights keep the
precision of the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from olla.engine.matrices import GROUP, Blocks, BnbTensor, Matrix, RawTensor
from olla.engine.native.library import CLinear, Core, CPart, Kind
from olla.engine.weights.bnb import dequantize
from olla.formats.ggml_types import GgmlType

_KINDS = {
    GgmlType.Q2_K: Kind.Q2,
    GgmlType.Q3_K: Kind.Q3,
    GgmlType.Q4_0: Kind.Q4,
    GgmlType.Q4_1: Kind.Q4,
    GgmlType.Q4_K: Kind.Q4,
    GgmlType.Q5_0: Kind.Q5,
    GgmlType.Q5_1: Kind.Q5,
    GgmlType.Q5_K: Kind.Q5,
    GgmlType.Q6_K: Kind.Q6,
    GgmlType.Q8_0: Kind.Q8,
    GgmlType.F16: Kind.F16,
    GgmlType.BF16: Kind.BF16,
    GgmlType.F32: Kind.F32,
}
_LEAST_SCALE = 2.0**-16
"""Below, a scale has fewer digits in half precision than the eight bits that it is for."""
_FLOATS = {
    torch.float16: GgmlType.F16,
    torch.bfloat16: GgmlType.BF16,
    torch.float32: GgmlType.F32,
}


class Part(NamedTuple):
    """Some rows of one kind. data: uint8, as core.h says."""

    kind: Kind
    rows: int
    data: Tensor


class Packed:
    """Weights (out_features, in_features), in parts; multiplies float32."""

    def __init__(self, core: Core, parts: Sequence[Part], in_features: int) -> None:
        self.core = core
        self.parts = tuple(parts)
        self.shape = (sum(part.rows for part in parts), in_features)
        self.like = torch.empty(0)
        self.num_bytes = sum(part.data.nbytes for part in parts)
        self._c_parts = (CPart * len(parts))(
            *(CPart(part.kind, part.rows, part.data.data_ptr()) for part in parts)
        )

    def c_linear(self) -> CLinear:
        """Good for as long as this matrix lives."""
        rows, columns = self.shape
        return CLinear(rows, columns, len(self.parts), 0, self._c_parts)

    def multiply(self, inputs: Tensor) -> Tensor:
        states = inputs.float().contiguous()
        outputs = torch.empty(states.shape[0], self.shape[0])
        self.core.linear(self.c_linear(), states.data_ptr(), len(states), outputs.data_ptr())
        return outputs.to(inputs.dtype)

    def rows(self, numbers: Tensor) -> Tensor:
        wanted = numbers.to(torch.int32).contiguous()
        found = torch.empty(len(wanted), self.shape[1])
        self.core.rows(self.c_linear(), wanted.data_ptr(), len(wanted), found.data_ptr())
        return found


class Packing:
    """Makes the matrices of a model that the core computes."""

    def __init__(self, core: Core) -> None:
        self.core = core

    def filed(self, tensor: RawTensor | BnbTensor, device: torch.device) -> Packed | None:
        """From a file's own blocks, with nothing of their size beside them."""
        if isinstance(tensor, BnbTensor):
            return self._unpacked(tensor)
        kind = _KINDS.get(tensor.type)
        if kind is None or tensor.shape[1] % tensor.type.block_elements:
            return None
        assert tensor.data.nbytes >= _bytes_of(tensor.type, tensor.shape)
        return self._packed(kind, tensor.type, tensor.shape, tensor.data.ctypes.data, tensor.order)

    def _unpacked(self, tensor: BnbTensor) -> Packed:
        """The values that a bitsandbytes tensor stands for; rows in int8 keep their eight bits."""
        rows, columns = tensor.shape
        if tensor.state is not None or columns % GROUP:
            return self.dense(dequantize(tensor))
        scales = tensor.companions["SCB"] / 127
        if bool(((scales > 0) & (scales < _LEAST_SCALE)).any()):
            return self.dense(dequantize(tensor))
        halves = scales[:, None, None].expand(rows, columns // GROUP, 1).half().view(torch.uint8)
        values = tensor.values.view(rows, -1, GROUP).view(torch.uint8)
        raw = torch.cat((halves, values), dim=-1)  # as Q8_0 has it
        return self._packed(Kind.Q8, GgmlType.Q8_0, (rows, columns), raw.data_ptr())

    def fits_four_bit(self, rows: int, columns: int) -> bool:
        return columns % GROUP == 0

    def four_bit(self, blocks: Blocks) -> Packed:
        rows, columns = blocks.values.shape
        values = blocks.values.view(rows, -1, 2, GROUP // 2)
        nibbles = values[:, :, 0] | (values[:, :, 1] << 4)
        halves = torch.stack((blocks.scales, blocks.offsets), dim=-1).half().view(torch.uint8)
        raw = torch.cat((halves, nibbles), dim=-1)  # as Q4_1 has it
        return self._packed(Kind.Q4, GgmlType.Q4_1, (rows, columns), raw.data_ptr())

    def eight_bit(self, weights: Tensor) -> Packed:
        """Rows that are not whole blocks stay floats."""
        if weights.shape[1] % GROUP:
            return self.dense(weights)
        return self._of_floats(Kind.Q8, weights)

    def dense(self, weights: Tensor) -> Packed:
        return self._of_floats(float_kind(weights.dtype), weights)

    def _of_floats(self, kind: Kind, weights: Tensor) -> Packed:
        shape = (weights.shape[0], weights.shape[1])
        whole = weights.contiguous()
        return self._packed(kind, _FLOATS[weights.dtype], shape, whole.data_ptr())

    def _packed(
        self,
        kind: Kind,
        type_: GgmlType,
        shape: tuple[int, int],
        address: int,
        order: Tensor | None = None,
    ) -> Packed:
        rows, columns = shape
        data = torch.empty(self.core.part_bytes(kind, rows, columns), dtype=torch.uint8)
        part = CPart(kind, rows, data.data_ptr())
        self.core.pack(type_, address, None if order is None else order.data_ptr(), part, columns)
        return Packed(self.core, [Part(kind, rows, data)], columns)

    def stack(self, matrices: Sequence[Matrix]) -> Packed:
        """Their outputs side by side."""
        parts = [part for matrix in matrices for part in packed(matrix).parts]
        return Packed(self.core, parts, matrices[0].shape[1])


def float_kind(dtype: torch.dtype) -> Kind:
    return _KINDS[_FLOATS[dtype]]


def packed(matrix: Matrix) -> Packed:
    assert isinstance(matrix, Packed), "a model that the core computes is packed throughout"
    return matrix


def _bytes_of(type_: GgmlType, shape: tuple[int, int]) -> int:
    return shape[0] * shape[1] // type_.block_elements * type_.block_bytes
