"""The linear layers a model is built of, and the adapters laid over them.

A Linear may be several projections of one input fused into one matrix. An adapter adds a low-rank
product to the rows of the batch that use it; rows of other sequences are untouched, so one batch
can mix adapters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from olla.engine.matrices import Matrix


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

    def __init__(self, weight: Matrix, bias: Tensor | None = None) -> None:
        self.weight = weight
        self.bias = bias
        self.deltas: dict[int, list[Delta]] = {}

    def __call__(self, inputs: Tensor, adapters: Sequence[AdapterRows] = ()) -> Tensor:
        """(num_rows, in_features) -> (num_rows, out_features)."""
        outputs = self.weight.multiply(inputs)
        if self.bias is not None:
            outputs += self.bias
        for adapter, rows in adapters:
            for delta in self.deltas.get(adapter, ()):
                added = (inputs[rows] @ delta.a.T) @ delta.b.T
                outputs[rows, delta.start : delta.end] += added
        return outputs

    @property
    def num_bytes(self) -> int:
        return self.weight.num_bytes + (0 if self.bias is None else self.bias.nbytes)
