"""The linear layers a model is built of, and the adapters laid over them.

A Linear may be several projections of one input fused into one matrix. An adapter adds a low-rank
product to the rows of the batch that use it; rows of other sequences are untouched, so one batch
can mix adapters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class AdapterRows(NamedTuple):
    """The rows (num_rows,) int64 of a batch that use adapter number `adapter`."""

    adapter: int
    rows: Tensor


@dataclass(frozen=True, slots=True)
class Delta:
    """A low-rank addition to the output columns [start, end): `x @ a.T @ b.T`.

    `a` is (rank, in_features), `b` is (end - start, rank) with the adapter's scale in it.
    """

    start: int
    end: int
    a: Tensor
    b: Tensor


class Linear:
    """`x @ weight.T + bias`, weight (out_features, in_features), plus the adapters' deltas."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.weight = weight
        self.bias = bias
        self.deltas: dict[int, list[Delta]] = {}

    @classmethod
    def fuse(cls, weights: Sequence[Tensor], biases: Sequence[Tensor | None]) -> Linear:
        """One Linear whose output is those of several, side by side."""
        if len(weights) == 1:
            return cls(weights[0], biases[0])
        bias = None
        if any(part is not None for part in biases):
            parts = zip(weights, biases, strict=True)
            bias = torch.cat([w.new_zeros(len(w)) if b is None else b for w, b in parts])
        return cls(torch.cat(list(weights)), bias)

    def __call__(self, inputs: Tensor, adapters: Sequence[AdapterRows] = ()) -> Tensor:
        """(num_rows, in_features) -> (num_rows, out_features)."""
        outputs = functional.linear(inputs, self.weight, self.bias)
        for adapter, rows in adapters:
            for delta in self.deltas.get(adapter, ()):
                added = (inputs[rows] @ delta.a.T) @ delta.b.T
                outputs[rows, delta.start : delta.end] += added
        return outputs

    @property
    def num_bytes(self) -> int:
        return self.weight.nbytes + (0 if self.bias is None else self.bias.nbytes)
