"""Batches are padded to recorded sizes, and rows of padding touch nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from olla.engine.attention import attend, attend_tables
from olla.engine.cuda_graphs import (
    MOST_BLOCKS,
    DecodeGraphs,
    DecodeInputs,
    Recorded,
    padded_shape,
)
from olla.engine.engine import Engine
from olla.engine.loading import LoadedModel, load_model
from olla.engine.loading import recorder as recorder_of
from olla.engine.models.batch import BlockTables
from tests.engine.driving import add, ask, drain, text_of
from tests.engine.test_adapters import generate, save_adapter
from tests.engine.test_families import FAMILIES
from tests.tiny_model import save_tiny_model

BLOCK, SCRATCH = 4, 31
HEADS, KV_HEADS, DIM = 4, 2, 8


class FakeRecorder:
    """Records by remembering the function; a replay calls it."""

    def __init__(self) -> None:
        self.num_recorded = 0
        self.num_replayed = 0

    def __call__(self, compute: Callable[[], Tensor]) -> Recorded:
        self.num_recorded += 1
        outputs = compute().clone()

        def replay() -> None:
            self.num_replayed += 1
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


@pytest.mark.parametrize(
    ("rows", "blocks", "shape"),
    [
        (1, 1, (1, 16)),
        (2, 16, (2, 16)),
        (3, 17, (4, 32)),
        (33, 33, (64, 64)),
        (64, MOST_BLOCKS // 64 + 1, None),
        (1, MOST_BLOCKS, (1, MOST_BLOCKS)),
        (1, MOST_BLOCKS + 1, None),
        (65, 1, None),
    ],
)
def test_a_batch_takes_the_next_shape(
    rows: int, blocks: int, shape: tuple[int, int] | None
) -> None:
    assert padded_shape(rows, blocks) == shape


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


@pytest.mark.parametrize("sliding_window", [0, 3])
@pytest.mark.parametrize("softcap", [0.0, 2.0])
def test_attention_over_tables_is_that_over_sequences(sliding_window: int, softcap: float) -> None:
    torch.manual_seed(0)
    lengths = [1, 4, 9, 12]
    inputs = inputs_of(lengths, 3)
    # What no sequence has written is no number.
    keys, values = (torch.full((32 * BLOCK, KV_HEADS, DIM), torch.nan) for _ in range(2))
    queries = torch.randn(len(lengths), HEADS, DIM)
    how: dict[str, Any] = {"scale": 0.3, "sliding_window": sliding_window, "softcap": softcap}
    expected = []
    for row, length in enumerate(lengths):
        start = row * 3 * BLOCK
        for states in (keys, values):
            states[start : start + length] = torch.randn(length, KV_HEADS, DIM)
        own = [states[start : start + length].transpose(0, 1) for states in (keys, values)]
        expected.append(attend(queries[row : row + 1], *own, **how))

    tables = BlockTables(inputs.tables, inputs.lengths, BLOCK)
    found = attend_tables(queries, (keys, values), tables, **how)

    torch.testing.assert_close(found, torch.cat(expected))


def texts(model: LoadedModel, num_requests: int) -> list[str]:
    """Replies of different lengths to prompts of different lengths, side by side."""
    engine = Engine(model, cache_tokens=4096)
    engine.warm_up()
    for number in range(num_requests):
        add(engine, ask(number, "ab" * (1 + 3 * number), num_predict=10 + 7 * number))
    messages = drain(engine)
    return [text_of(messages[number]) for number in range(num_requests)]


RECORDED = [
    (family, settings)
    for family, settings in FAMILIES
    if not any("experts" in name for name in settings)
]


@pytest.mark.parametrize(("family", "settings"), RECORDED)
def test_replies_from_recordings_are_those_computed_as_they_come(
    tmp_path: Path, family: str, settings: dict[str, Any]
) -> None:
    files = save_tiny_model(tmp_path, family, **settings)
    model = load_model(files, "float32", "cpu", 0, lambda done, total: None)
    recorder = FakeRecorder()

    found = texts(replace(model, record=recorder), 5)

    assert found == texts(model, 5)
    assert recorder.num_replayed > 30
    assert recorder.num_recorded <= 5  # 1, 2, 4 and 8 rows


def test_steps_with_an_adapter_are_computed_as_they_come(tmp_path: Path) -> None:
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    files = save_tiny_model(base)
    model, same = (
        load_model(files, "float32", "cpu", 0, lambda done, total: None) for _ in range(2)
    )
    save_adapter(base, adapter, seed=1)
    recorder = FakeRecorder()

    found = generate(Engine(replace(model, record=recorder)), [adapter, None])

    assert found == generate(Engine(same), [adapter, None])
    assert recorder.num_replayed == 0


def test_on_a_cpu_nothing_is_recorded(tiny: LoadedModel) -> None:
    assert recorder_of(tiny.network, torch.device("cpu")) is None


def test_what_a_mixture_computes_is_not_recorded(tmp_path: Path) -> None:
    files = save_tiny_model(tmp_path, "mixtral", num_local_experts=2)
    mixture = load_model(files, "float32", "cpu", 0, lambda done, total: None)

    assert recorder_of(mixture.network, torch.device("cuda")) is None
