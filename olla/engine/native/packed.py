"""Packed: a matrix in the layout of the compiled core; and Packing, which makes them.

Rows stand in groups of 8 and columns in blocks of 32, so that a vector register takes one column
of a group; what is missing of the last group is zeros. 4-bit values keep the file's scale and
offset for each 32, the others get a scale for each 32: exact for Q4_0, Q4_1, Q4_K (but for scales
in half precision) and Q8_0. Float weights keep the precision of the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from olla.engine.matrices import GROUP, Blocks, BnbTensor, Matrix, RawTensor
from olla.engine.native.library import CLinear, Core, CPart, Kind
from olla.engine.weights.bnb import dequantize
from olla.formats.ggml_types import GgmlType

LANES = 8
"""Rows in a group."""

_LEAST_SCALE = 2.0**-16
"""Below, a scale has fewer digits in half precision than the eight bits that it is for."""
_BLOCK_BYTES = {Kind.Q4: 160, Kind.Q8: 272}
_FILED = {
    GgmlType.Q4_0: Kind.Q4,
    GgmlType.Q4_1: Kind.Q4,
    GgmlType.Q4_K: Kind.Q4,
    GgmlType.Q8_0: Kind.Q8,
}
_FLOATS = {torch.float16: Kind.F16, torch.bfloat16: Kind.BF16, torch.float32: Kind.F32}


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
        rows, columns = tensor.shape
        kind = _FILED.get(tensor.type)
        if kind is None:
            return None
        num_groups, num_blocks = -(-rows // LANES), columns // GROUP
        data = torch.empty(num_groups, num_blocks, _BLOCK_BYTES[kind], dtype=torch.uint8)
        order = None if tensor.order is None else tensor.order.data_ptr()
        blocks = tensor.data.ctypes.data
        self.core.pack(int(tensor.type), blocks, order, rows, columns, data.data_ptr())
        return Packed(self.core, [Part(kind, rows, data)], columns)

    def _unpacked(self, tensor: BnbTensor) -> Packed:
        """The values that a bitsandbytes tensor stands for; rows in int8 keep their eight bits."""
        rows, columns = tensor.shape
        if tensor.state is not None or columns % GROUP:
            return self.dense(dequantize(tensor))
        scales = tensor.companions["SCB"] / 127
        if bool(((scales > 0) & (scales < _LEAST_SCALE)).any()):
            return self.dense(dequantize(tensor))
        return self._eight_bit(tensor.values, scales[:, None].expand(rows, columns // GROUP))

    def fits_four_bit(self, rows: int, columns: int) -> bool:
        return columns % GROUP == 0

    def four_bit(self, blocks: Blocks) -> Packed:
        rows, columns = blocks.values.shape
        values = _groups(blocks.values).view(-1, LANES, columns // GROUP, 2, 4, 4)
        nibbles = values[:, :, :, 0] | (values[:, :, :, 1] << 4)
        bytes_ = nibbles.permute(0, 2, 3, 1, 4).reshape(-1, columns // GROUP, 128)
        data = torch.cat((bytes_, _halves(blocks.scales), _halves(blocks.offsets)), dim=-1)
        return Packed(self.core, [Part(Kind.Q4, rows, data)], columns)

    def eight_bit(self, weights: Tensor) -> Packed:
        """Args:
        weights: (out_features, in_features) float32; in_features a multiple of 32.
        """
        rows, columns = weights.shape
        blocks = weights.view(rows, -1, GROUP)
        scales = (blocks.abs().amax(dim=-1, keepdim=True) / 127).clamp(min=1e-12)
        values = (blocks / scales).round_().to(torch.int8)
        return self._eight_bit(values.view(rows, columns), scales[..., 0])

    def _eight_bit(self, values: Tensor, scales: Tensor) -> Packed:
        """From (rows, columns) int8 and a scale for each 32."""
        rows, columns = values.shape
        groups = _groups(values).view(-1, LANES, columns // GROUP, 8, 4)
        bytes_ = groups.permute(0, 2, 3, 1, 4).reshape(-1, columns // GROUP, 256).view(torch.uint8)
        data = torch.cat((bytes_, _halves(scales)), dim=-1)
        return Packed(self.core, [Part(Kind.Q8, rows, data)], columns)

    def dense(self, weights: Tensor) -> Packed:
        rows, columns = weights.shape
        groups = _groups(weights).view(-1, LANES, columns)
        data = groups.permute(0, 2, 1).contiguous().view(torch.uint8)
        return Packed(self.core, [Part(_FLOATS[weights.dtype], rows, data)], columns)

    def stack(self, matrices: Sequence[Matrix]) -> Packed:
        """Their outputs side by side."""
        parts = [part for matrix in matrices for part in packed(matrix).parts]
        return Packed(self.core, parts, matrices[0].shape[1])


def packed(matrix: Matrix) -> Packed:
    assert isinstance(matrix, Packed), "a model that the core computes is packed throughout"
    return matrix


def _groups(rows: Tensor) -> Tensor:
    """Rows (num_rows, width), with rows of zeros up to a whole group."""
    return functional.pad(rows, (0, 0, 0, -len(rows) % LANES)).contiguous()


def _halves(values: Tensor) -> Tensor:
    """(num_rows, num_blocks) -> (num_groups, num_blocks, 16), the bytes of halves."""
    groups = _groups(values).half().view(-1, LANES, values.shape[1])
    return groups.transpose(1, 2).contiguous().view(torch.uint8)
