"""RMSNorm, with weights of their own for the rows of some adapters."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from olla.engine.linear import AdapterRows
from olla.engine.parts import Replaced
from olla.errors import FormatError


class RMSNorm:
    """Scales each row to unit mean square, computed in float32; the result is as the weight.

    `weight` has the one that Gemma adds in it, as have those of `replaced`, by adapter.
    """

    def __init__(self, weight: Tensor, eps: float, adds_one: bool) -> None:
        self.weight = weight.float() + 1.0 if adds_one else weight
        self.replaced: dict[int, Tensor] = {}
        self._dtype = weight.dtype
        self._adds_one = adds_one
        self._eps = eps

    def __call__(self, states: Tensor, adapters: Sequence[AdapterRows] = ()) -> Tensor:
        wide = states.float()
        normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self._eps)
        scaled = self._scaled(normed, self.weight)
        for adapter, rows in adapters:
            if adapter in self.replaced:
                scaled[rows] = self._scaled(normed[rows], self.replaced[adapter])
        return scaled

    def replace(self, adapter: int, part: Replaced) -> None:
        """Give an adapter a weight of its own; several shares add up.

        Raises:
            FormatError: it does not fit.
        """
        if part.parameter != "weight" or part.values.shape != self.weight.shape:
            raise FormatError(
                f"adapter for {part.module} has a {part.parameter} of {tuple(part.values.shape)}, "
                f"the base is a norm of {tuple(self.weight.shape)}"
            )
        values = part.values.to(self.weight) + (1.0 if self._adds_one else 0.0)
        before = self.replaced.get(adapter, self.weight)
        self.replaced[adapter] = before + part.share * (values - self.weight)

    def _scaled(self, normed: Tensor, weight: Tensor) -> Tensor:
        # Gemma multiplies in float32 and then narrows; Llama narrows first.
        if self._adds_one:
            return (normed * weight).to(self._dtype)
        return weight * normed.to(self._dtype)
