"""Batches are padded to recorded sizes, and rows of padding touch nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from olla.engine.attention import attend
from olla.engine.cuda_graphs import (
    DecodeGraphs,
    DecodeInputs,
    Recorded,
    attend_tables,
    padded_blocks,
    padded_rows,
)

BLOCK, SCRATCH = 4, 31
HEADS, KV_HEADS, DIM = 4, 2, 8


class FakeRecorder:
    """Records by remembering the function; a replay calls it."""

    def __init__(self) -> None:
        self.num_recorded = 0

    def __call__(self, compute: Callable[[], Tensor]) -> Recorded:
        self.num_recorded += 1
        outputs = compute()

        def replay() -> None:
            outputs.copy_(compute())

        return Recorded(replay, outputs)


def inputs_of(lengths: list[int], num_blocks: int) -> DecodeInputs:
    """Sequences of these lengths, each in blocks of its own."""
    rows = len(lengths)
    tables = torch.arange(rows * num_blocks).reshape(rows, num_blocks)
    last = torch.tensor(lengths) - 1
    slots = tables[torch.arange(rows), last // BLOCK] * BLOCK + last % BLOCK
    return DecodeInputs(last + 100, last, slots, tables, torch.tensor(lengths))


def first_tokens(inputs: DecodeInputs) -> Tensor:
    return torch.stack((inputs.tokens, inputs.slots, inputs.lengths), dim=1)


@pytest.mark.parametrize(("rows", "size"), [(1, 1), (2, 2), (3, 4), (33, 64), (64, 64), (65, None)])
def test_a_batch_takes_the_next_size(rows: int, size: int | None) -> None:
    assert padded_rows(rows) == size


@pytest.mark.parametrize(("blocks", "padded"), [(1, 16), (16, 16), (17, 32), (32, 32), (33, 64)])
def test_tables_take_the_next_power_of_two(blocks: int, padded: int) -> None:
    assert padded_blocks(blocks) == padded


def test_rows_get_what_they_get_alone() -> None:
    recorder = FakeRecorder()
    graphs = DecodeGraphs(first_tokens, recorder, SCRATCH, BLOCK)

    for lengths in ([3, 5, 8], [2, 2, 2, 2], [7], [1, 4, 6]):
        inputs = inputs_of(lengths, 2)
        assert torch.equal(graphs.run(inputs), first_tokens(inputs))

    assert recorder.num_recorded == 2  # one row, and four


def test_padding_lies_in_the_scratch_slot_whatever_was_there() -> None:
    seen: list[DecodeInputs] = []

    def compute(inputs: DecodeInputs) -> Tensor:
        seen.append(DecodeInputs(*(part.clone() for part in inputs)))
        return first_tokens(inputs)

    graphs = DecodeGraphs(compute, FakeRecorder(), SCRATCH, BLOCK)
    graphs.run(inputs_of([3, 5, 8, 2], 2))
    graphs.run(inputs_of([3, 1, 4], 1))

    last = seen[-1]
    assert last.slots[3] == SCRATCH * BLOCK
    assert [int(part[3]) for part in (last.tokens, last.positions, last.lengths)] == [0, 0, 1]
    assert (last.tables[3] == SCRATCH).all()
    assert (last.tables[:3, 1:] == SCRATCH).all()


def test_a_batch_larger_than_any_recording_is_computed_as_it_is() -> None:
    recorder = FakeRecorder()
    inputs = inputs_of([1] * 65, 1)

    found = DecodeGraphs(first_tokens, recorder, SCRATCH, BLOCK).run(inputs)

    assert torch.equal(found, first_tokens(inputs))
    assert recorder.num_recorded == 0


@pytest.mark.parametrize("sliding_window", [0, 3])
def test_attention_over_tables_is_that_over_sequences(sliding_window: int) -> None:
    torch.manual_seed(0)
    lengths = [1, 4, 9, 12]
    inputs = inputs_of(lengths, 3)
    # What no sequence has written is no number.
    keys, values = (torch.full((32 * BLOCK, KV_HEADS, DIM), torch.nan) for _ in range(2))
    queries = torch.randn(len(lengths), HEADS, DIM)
    expected = []
    for row, length in enumerate(lengths):
        start = row * 3 * BLOCK
        for states in (keys, values):
            states[start : start + length] = torch.randn(length, KV_HEADS, DIM)
        own = [states[start : start + length].transpose(0, 1) for states in (keys, values)]
        expected.append(
            attend(queries[row : row + 1], *own, scale=0.3, sliding_window=sliding_window)
        )
    found = attend_tables(
        queries, (keys, values), inputs, BLOCK, scale=0.3, sliding_window=sliding_window
    )

    torch.testing.assert_close(found, torch.cat(expected))
