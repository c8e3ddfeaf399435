"""Matrices: weights in the precisions that a machine multiplies fastest in.

On a CPU a reply is bound by the bytes of weights read for each token, so quantized files stay
quantized: `Int4` holds the 4-bit formats of GGUF as they are, `Int8` takes the others' values in
8 bits a row. For many rows at once, as in prefill, arithmetic is what counts, and both become
bfloat16 for the product. The kernels are torch's (`_weight_int4pack_mm_for_cpu`,
`_weight_int8pack_mm`), with activations in bfloat16, which they are made for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, Self, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from olla.formats.bitsandbytes import QuantState
from olla.formats.ggml_types import GgmlType

Bytes: TypeAlias = np.ndarray[Any, np.dtype[np.uint8]]

GROUP = 32
INT4_ROWS = 16
"""torch packs 4-bit rows by so many."""
_MOST_ROWS_UNPACKED = 24
"""Up to so many rows the kernels of packed weights are faster than unpacking them first."""


class Blocks(NamedTuple):
    """A matrix in 4-bit groups of 32: `values * scales + offsets`.

    values: (rows, columns) uint8 in 0..15. scales, offsets: (rows, columns / 32) float32.
    """

    values: Tensor
    scales: Tensor
    offsets: Tensor


@dataclass(frozen=True, slots=True)
class RawTensor:
    """A matrix (rows, columns) as it stands in a file, in blocks of GGUF's `type`.

    `order`: (rows,) int32, the row of the file for each row of the matrix; None if they are the
    same. `done` gives back the memory of `data`, and says how many bytes were read.
    """

    type: GgmlType
    shape: tuple[int, int]
    data: Bytes
    order: Tensor | None
    done: Callable[[], int]


@dataclass(frozen=True, slots=True)
class BnbTensor:
    """A matrix (rows, columns) as bitsandbytes packs it: nf4 or fp4 with a `state`, int8 without.

    `companions`: what belongs to the packed `values`, by the ends of their names ("absmax" ...,
    or "SCB"). `num_bytes`: of all, in the file.
    """

    shape: tuple[int, ...]
    values: Tensor
    companions: Mapping[str, Tensor]
    state: QuantState | None
    num_bytes: int

    @classmethod
    def of(
        cls,
        shape: tuple[int, ...],
        values: Tensor,
        companions: Mapping[str, Tensor],
        state: QuantState | None,
    ) -> Self:
        total = values.nbytes + sum(part.nbytes for part in companions.values())
        return cls(shape, values.view(shape) if state is None else values, companions, state, total)

    def done(self) -> int:
        """The bytes that were read; as of a RawTensor."""
        return self.num_bytes


class Matrix(Protocol):
    """Weights (out_features, in_features) in some precision."""

    @property
    def shape(self) -> tuple[int, int]: ...

    @property
    def like(self) -> Tensor:
        """An empty tensor of the dtype and on the device of what `multiply` takes and gives."""
        ...

    @property
    def num_bytes(self) -> int: ...

    def multiply(self, inputs: Tensor) -> Tensor:
        """(num_rows, in_features) -> (num_rows, out_features)."""
        ...

    def rows(self, numbers: Tensor) -> Tensor:
        """Rows by number, (count,) int64 -> (count, in_features)."""
        ...


class Dense:
    """Weights as they are computed with."""

    def __init__(self, weights: Tensor) -> None:
        self.weights = weights
        self.shape = (weights.shape[0], weights.shape[1])
        self.like = weights.new_empty(0)
        self.num_bytes = weights.nbytes

    def multiply(self, inputs: Tensor) -> Tensor:
        return functional.linear(inputs, self.weights)

    def rows(self, numbers: Tensor) -> Tensor:
        return self.weights[numbers]


class Int8:
    """Eight bits and one scale a row; computes in bfloat16."""

    def __init__(self, weights: Tensor) -> None:
        """Args:
        weights: (out_features, in_features) float32.
        """
        scales = (weights.abs().amax(dim=1, keepdim=True) / 127).clamp(min=1e-12)
        self._values = (weights / scales).round().to(torch.int8)
        self._scales = scales.bfloat16()
        self.shape = (weights.shape[0], weights.shape[1])
        self.like = self._scales.new_empty(0)
        self.num_bytes = self._values.nbytes + self._scales.nbytes

    def multiply(self, inputs: Tensor) -> Tensor:
        if inputs.shape[0] <= _MOST_ROWS_UNPACKED:
            product: Tensor = torch.ops.aten._weight_int8pack_mm(
                inputs, self._values, self._scales[:, 0]
            )
            return product
        return functional.linear(inputs, self._values.to(inputs.dtype)) * self._scales[:, 0]

    def rows(self, numbers: Tensor) -> Tensor:
        return self._values[numbers].to(self._scales.dtype) * self._scales[numbers]


class Int4:
    """Four bits in groups of 32 with a scale and an offset each; computes in bfloat16.

    The values are held twice, packed as the kernel wants them and in halves for unpacking.
    """

    def __init__(self, blocks: Blocks) -> None:
        values, scales, offsets = blocks
        middle = values.shape[1] // 2
        # The kernel takes values about 8 and the offset at 8.
        zeros = offsets + 8 * scales
        self._packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(values.int(), 1)
        self._groups = torch.stack((scales.T, zeros.T), dim=-1).bfloat16().contiguous()
        self._halves = values[:, :middle] | (values[:, middle:] << 4)
        self._scales, self._offsets = scales.bfloat16(), offsets.bfloat16()
        self.shape = (values.shape[0], values.shape[1])
        self.like = self._scales.new_empty(0)
        parts = (self._packed, self._groups, self._halves, self._scales, self._offsets)
        self.num_bytes = sum(part.nbytes for part in parts)

    def multiply(self, inputs: Tensor) -> Tensor:
        if inputs.shape[0] <= _MOST_ROWS_UNPACKED:
            product: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(
                inputs, self._packed, GROUP, self._groups
            )
            return product
        return functional.linear(inputs, self._unpacked(slice(None)))

    def rows(self, numbers: Tensor) -> Tensor:
        return self._unpacked(numbers)

    def _unpacked(self, where: Tensor | slice) -> Tensor:
        halves = self._halves[where]
        values = torch.cat((halves & 15, halves >> 4), dim=1).to(self._scales.dtype)
        groups = values.reshape(values.shape[0], -1, GROUP)
        weights = torch.addcmul(
            self._offsets[where][..., None], groups, self._scales[where][..., None]
        )
        return weights.reshape(values.shape)


class Stacked:
    """Matrices of different precisions, their outputs side by side."""

    def __init__(self, parts: Sequence[Matrix]) -> None:
        self._parts = parts
        self.shape = (sum(part.shape[0] for part in parts), parts[0].shape[1])
        self.like = parts[0].like
        self.num_bytes = sum(part.num_bytes for part in parts)

    def multiply(self, inputs: Tensor) -> Tensor:
        return torch.cat([part.multiply(inputs) for part in self._parts], dim=-1)

    def rows(self, numbers: Tensor) -> Tensor:
        found = self.like.new_empty(len(numbers), self.shape[1])
        first = 0
        for part in self._parts:
            last = first + part.shape[0]
            inside = (numbers >= first) & (numbers < last)
            found[inside] = part.rows(numbers[inside] - first).to(found.dtype)
            first = last
        return found


class Matrices(Protocol):
    """Makes the matrices of a model, in the kernels' own layouts."""

    def filed(self, tensor: RawTensor | BnbTensor, device: torch.device) -> Matrix | None:
        """From the file's own blocks; None where the kernels cannot use them as they are."""
        ...

    def fits_four_bit(self, rows: int, columns: int) -> bool: ...

    def four_bit(self, blocks: Blocks) -> Matrix: ...

    def eight_bit(self, weights: Tensor) -> Matrix:
        """From (out_features, in_features) float32."""
        ...

    def dense(self, weights: Tensor) -> Matrix: ...

    def stack(self, matrices: Sequence[Matrix]) -> Matrix:
        """Their outputs side by side."""
        ...


class TorchMatrices:
    """Those that torch itself has kernels for."""

    def filed(self, tensor: RawTensor | BnbTensor, device: torch.device) -> Matrix | None:
        return None

    def fits_four_bit(self, rows: int, columns: int) -> bool:
        return rows % INT4_ROWS == 0 and columns % (2 * GROUP) == 0

    def four_bit(self, blocks: Blocks) -> Matrix:
        return Int4(blocks)

    def eight_bit(self, weights: Tensor) -> Matrix:
        return Int8(weights)

    def dense(self, weights: Tensor) -> Matrix:
        return Dense(weights)

    def stack(self, matrices: Sequence[Matrix]) -> Matrix:
        return matrices[0] if len(matrices) == 1 else Stacked(matrices)
