"""Projections of one input, read as one Linear; and where their parameters come from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from olla.engine.linear import Linear
from olla.engine.matrices import Matrix
from olla.engine.models.overlay import Place


class Parameters(Protocol):
    """Where parameters come from: tensors by name, already on their device and of their dtype."""

    def take(self, name: str, shape: tuple[int, ...]) -> Tensor: ...

    def take_optional(
        self, name: str, shape: tuple[int, ...], dtype: torch.dtype | None = None
    ) -> Tensor | None: ...

    def table(self, name: str, rows: int, columns: int) -> Matrix: ...

    def matrix(self, parts: Mapping[str, int], in_features: int) -> Matrix: ...

    def float_matrix(self, name: str, rows: int, in_features: int) -> Matrix: ...

    def matrix_optional(self, name: str, rows: int, in_features: int) -> Matrix | None: ...


def fused(
    parameters: Parameters, prefix: str, whole: str, parts: dict[str, int], in_features: int
) -> tuple[Linear, dict[str, Place]]:
    """Read projections that share an input as one Linear.

    A checkpoint may hold them fused already (Phi-3), under the name `whole`.

    Returns:
        The Linear, and for each projection's name (the fused one too) its place in it.
    """
    total = sum(parts.values())
    weight = parameters.matrix_optional(f"{prefix}.{whole}.weight", total, in_features)
    if weight is not None:
        bias = parameters.take_optional(f"{prefix}.{whole}.bias", (total,))
    else:
        rows = {f"{prefix}.{name}.weight": size for name, size in parts.items()}
        weight = parameters.matrix(rows, in_features)
        bias = _fused_bias(parameters, prefix, parts)
    linear = Linear(weight, bias)
    places = {whole: Place(linear, 0, total)}
    start = 0
    for name, size in parts.items():
        places[name] = Place(linear, start, start + size)
        start += size
    return linear, places


def _fused_bias(parameters: Parameters, prefix: str, parts: dict[str, int]) -> Tensor | None:
    """The parts' biases side by side; None if no part has one, zeros for those that have not."""
    found = {
        name: parameters.take_optional(f"{prefix}.{name}.bias", (size,))
        for name, size in parts.items()
    }
    present = [bias for bias in found.values() if bias is not None]
    if not present:
        return None
    missing = {name: present[0].new_zeros(parts[name]) for name in parts}
    return torch.cat([missing[name] if bias is None else bias for name, bias in found.items()])
