"""Modules with an adapter merged in: a second set of weights, which takes the place of the first.

The first set is never written to, so that the way back is exact. Knows the modules that adapters
change, not when merging pays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from olla.engine.linear import Delta, Linear
from olla.engine.matrices import Dense, Matrix
from olla.engine.models.batch import CausalModel
from olla.engine.models.decoder import Decoder
from olla.engine.models.norm import RMSNorm
from olla.engine.models.overlay import Place

_ROWS_AT_ONCE = 1024


class Mergeable(Protocol):
    """A module, as one adapter changes it."""

    @property
    def num_bytes(self) -> int:
        """Memory of what `merge` makes."""
        ...

    def merge(self) -> None:
        """Make the weights with the adapter in them."""
        ...

    def swap(self) -> None:
        """Exchange the module's weights for the merged ones; once more brings its own back."""
        ...


def mergeable(model: CausalModel, adapter: int) -> list[Mergeable] | None:
    """All that an adapter changes of a model.

    None where it cannot be merged: the weights are quantized or spread over devices, or the
    adapter changes the embedding, which is not multiplied but looked up.
    """
    if not isinstance(model, Decoder) or not model.is_dense:
        return None
    linears: set[Linear] = set()
    norms: list[RMSNorm] = []
    for _, module in model.modules():
        if isinstance(module, Place):
            linears |= {module.linear} if adapter in module.linear.deltas else set()
        elif isinstance(module, RMSNorm):
            norms += [module] if adapter in module.replaced else []
        elif adapter in module.deltas or adapter in module.row_deltas:
            return None
    return [
        *(MergeableLinear(linear, adapter) for linear in linears),
        *(MergeableNorm(norm, adapter) for norm in norms),
    ]


class MergeableLinear:
    def __init__(self, linear: Linear, adapter: int) -> None:
        assert isinstance(linear.weight, Dense), "only dense models are merged"
        self._linear = linear
        self._dense = linear.weight
        self._deltas = linear.deltas[adapter]
        self._other: tuple[Matrix, Tensor | None] = (linear.weight, linear.bias)

    @property
    def num_bytes(self) -> int:
        return self._linear.num_bytes

    def merge(self) -> None:
        weight = Dense(merged_weight(self._dense.weights, self._deltas))
        self._other = (weight, merged_bias(self._linear.bias, self._deltas, self._dense.weights))

    def swap(self) -> None:
        linear = self._linear
        self._other, (linear.weight, linear.bias) = (linear.weight, linear.bias), self._other


class MergeableNorm:
    def __init__(self, norm: RMSNorm, adapter: int) -> None:
        self._norm = norm
        self._other = norm.replaced[adapter]
        self.num_bytes = 0

    def merge(self) -> None:
        pass

    def swap(self) -> None:
        self._other, self._norm.weight = self._norm.weight, self._other


def merged_weight(weight: Tensor, deltas: Sequence[Delta]) -> Tensor:
    """The weight (out_features, in_features) as the deltas change it.

    It is computed in float32 and rounded once.
    """
    merged = torch.empty_like(weight)
    keeps = any(delta.keep is not None for delta in deltas)
    for first in range(0, len(weight), _ROWS_AT_ONCE):
        own = weight[first : first + _ROWS_AT_ONCE]
        before = own.float()
        after = before.clone() if keeps or before is own else before
        for delta in deltas:
            rows, picked = _overlap(delta, first, first + len(own))
            if delta.a is not None:
                a = delta.a.float()
                after[rows] += a[picked] if delta.b is None else delta.b[picked].float() @ a
            if delta.keep is not None:
                after[rows] += delta.keep[picked].float()[:, None] * before[rows]
        merged[first : first + len(own)] = after
    return merged


def merged_bias(bias: Tensor | None, deltas: Sequence[Delta], weight: Tensor) -> Tensor | None:
    """The same of a bias (out_features,); None if there is none after it either."""
    if bias is None and all(delta.constant is None for delta in deltas):
        return None
    before = weight.new_zeros(len(weight)).float() if bias is None else bias.float()
    after = before.clone()
    for delta in deltas:
        if delta.keep is not None:
            after[delta.columns] += delta.keep.float() * before[delta.columns]
        if delta.constant is not None:
            after[delta.columns] += delta.constant.float()
    return after.to(weight.dtype)


def _overlap(delta: Delta, first: int, end: int) -> tuple[slice | Tensor, slice | Tensor]:
    """What of the rows [first, end) a delta changes: among them, and among its own columns."""
    if delta.chosen is not None:
        picked = ((delta.chosen >= first) & (delta.chosen < end)).nonzero()[:, 0]
        return delta.chosen[picked] - first, picked
    start = max(first, delta.start)
    stop = max(min(end, delta.end), start)
    return slice(start - first, stop - first), slice(start - delta.start, stop - delta.start)
