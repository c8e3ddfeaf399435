"""The linear layers a model is built of, and what adapters add to them.

A Linear may be several projections of one input fused into one matrix. An adapter's deltas touch
the rows of the batch that use it; rows of other sequences are left alone, so one batch can mix
adapters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from olla.engine.matrices import Matrix


class AdapterRows(NamedTuple):
    """The rows (num_rows,) int64 of a batch that use adapter number `adapter`."""

    adapter: int
    rows: Tensor


@dataclass(frozen=True, slots=True)
class Delta:
    """An addition to some output columns: `b @ a @ x + keep * y + constant`.

    `y` is the output without adapters, bias included. a: (rank, in_features). b: (columns, rank);
    None is the identity. `keep`, `constant`: (columns,). The columns are [start, end), or those
    that `chosen` numbers, int64.
    """

    start: int
    end: int
    a: Tensor | None = None
    b: Tensor | None = None
    keep: Tensor | None = None
    constant: Tensor | None = None
    chosen: Tensor | None = None

    @property
    def columns(self) -> slice | Tensor:
        return slice(self.start, self.end) if self.chosen is None else self.chosen

    def added(self, low: Tensor | None, outputs: Tensor) -> Tensor:
        """
        Args:
            low: (num_rows, rank), `a @ x`. outputs: (num_rows, columns), `y`; read for `keep` only.
        """
        if low is None:
            total = torch.zeros_like(outputs)
        else:
            total = low if self.b is None else low @ self.b.T
        if self.keep is not None:
            total = total + self.keep * outputs
        return total if self.constant is None else total + self.constant


Deltas = dict[int, list[Delta]]
"""By the adapter's number."""


class Linear:
    """`x @ weight.T + bias`, weight (out_features, in_features), plus the adapters' deltas."""

    def __init__(self, weight: Matrix, bias: Tensor | None = None) -> None:
        self.weight = weight
        self.bias = bias
        self.deltas: Deltas = {}

    def __call__(self, inputs: Tensor, adapters: Sequence[AdapterRows] = ()) -> Tensor:
        """(num_rows, in_features) -> (num_rows, out_features)."""
        outputs = self.weight.multiply(inputs)
        if self.bias is not None:
            outputs += self.bias
        add_deltas(self.deltas, inputs, outputs, adapters)
        return outputs

    @property
    def num_bytes(self) -> int:
        return self.weight.num_bytes + (0 if self.bias is None else self.bias.nbytes)


@dataclass(frozen=True, slots=True)
class RowDelta:
    """`rows` (count, hidden_size) to this `share` in the place of those of these `tokens`."""

    tokens: Tensor
    rows: Tensor
    share: float


class Embedding:
    """Rows of a table, as adapters change them."""

    def __init__(self, table: Matrix) -> None:
        self.table = table
        self.deltas: Deltas = {}
        self.row_deltas: dict[int, list[RowDelta]] = {}

    def __call__(self, tokens: Tensor, adapters: Sequence[AdapterRows] = ()) -> Tensor:
        """(num_rows,) int64 -> (num_rows, hidden_size)."""
        outputs = self.table.rows(tokens)
        self.change(outputs, tokens, adapters)
        return outputs

    def change(self, outputs: Tensor, tokens: Tensor, adapters: Sequence[AdapterRows]) -> None:
        """Make of the tokens' own rows (num_rows, hidden_size) what adapters make of them."""
        for adapter, rows in adapters:
            before, given = outputs[rows], tokens[rows]
            after = before.clone()
            for delta in self.deltas.get(adapter, ()):
                after += delta.added(None if delta.a is None else delta.a.T[given], before)
            for change in self.row_deltas.get(adapter, ()):
                hit, which = (given[:, None] == change.tokens).nonzero(as_tuple=True)
                after[hit] += change.share * (change.rows[which] - before[hit])
            outputs[rows] = after

    def is_changed_by(self, adapters: Sequence[AdapterRows]) -> bool:
        return any(n in self.deltas or n in self.row_deltas for n, _ in adapters)


def add_deltas(
    deltas: Deltas, inputs: Tensor, outputs: Tensor, adapters: Sequence[AdapterRows]
) -> None:
    """Add to the outputs (num_rows, out_features) what the rows' adapters make of the inputs."""
    for adapter, rows in adapters:
        if adapter not in deltas:
            continue
        # Picking rows and putting them back costs more than the products, so not for all rows.
        is_whole = len(rows) == len(outputs)
        before, given = (outputs, inputs) if is_whole else (outputs[rows], inputs[rows])
        keeps = any(delta.keep is not None for delta in deltas[adapter])
        after = before.clone() if keeps else before
        for delta in deltas[adapter]:
            low = None if delta.a is None else given @ delta.a.T
            after[:, delta.columns] += delta.added(low, before[:, delta.columns])
        if after is not outputs:
            outputs[rows] = after
