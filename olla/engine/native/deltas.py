"""CoreDelta: what an adapter adds to a linear, as the compiled core reads it."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor
from torch.nn import functional

from olla.engine.linear import Delta
from olla.engine.native.library import CDelta, Kind
from olla.engine.native.packed import Packed, float_kind

TILE = 16
"""Outputs that stand side by side (core.h)."""
LOSS = 2.0**-8
"""What a number in 16 bits may be off by, in parts of the largest, where the base is not float32:
bfloat16 loses as much of every number, and so do the activations of quantized weights."""


@dataclass(frozen=True, slots=True)
class CoreDelta:
    """A Delta whose matrices are of one dtype, float16, bfloat16 or float32.

    a: (rank, in_features). b: (tiles, rank, TILE), the last tile filled up with zeros; None is
    the identity.
    """

    start: int
    end: int
    a: Tensor | None
    b: Tensor | None
    keep: Tensor | None
    constant: Tensor | None

    def described(self, adapter: int) -> CDelta:
        """Good for as long as this delta lives."""
        rank = 0 if self.a is None else len(self.a)
        kind = Kind.F32 if self.a is None else float_kind(self.a.dtype)
        parts = (self.a, self.b, self.keep, self.constant)
        pointers = (None if part is None else part.data_ptr() for part in parts)
        return CDelta(adapter, rank, self.start, self.end, kind, *pointers)


def core_delta(delta: Delta, weight: Packed) -> CoreDelta:
    """A delta of a linear of that weight, in 16 bits where that loses nothing that counts."""
    is_exact = all(part.kind is Kind.F32 for part in weight.parts)
    a, b = narrowed(delta.a, delta.b, 0.0 if is_exact else LOSS)
    rows = None if a is None else a.contiguous()
    tiles = None if b is None else tiled(b)
    return CoreDelta(delta.start, delta.end, rows, tiles, delta.keep, delta.constant)


def narrowed(
    a: Tensor | None, b: Tensor | None, loss: float
) -> tuple[Tensor | None, Tensor | None]:
    """The matrices in 16 bits, if no number is off by more than `loss` of the largest."""
    found = [matrix for matrix in (a, b) if matrix is not None]
    for dtype in (torch.float16, torch.bfloat16):
        if all(torch.dist(m.to(dtype).float(), m, inf) <= loss * m.norm(inf) for m in found):
            return tuple(None if m is None else m.to(dtype) for m in (a, b))  # type: ignore[return-value]
    return a, b


def tiled(b: Tensor) -> Tensor:
    """(out_features, rank) -> (tiles, rank, TILE)."""
    rows, rank = b.shape
    whole = functional.pad(b, (0, 0, 0, -rows % TILE))
    return whole.view(-1, TILE, rank).transpose(1, 2).contiguous()
