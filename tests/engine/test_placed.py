"""Layers elsewhere: what goes in moves there, what comes out moves back."""

from __future__ import annotations

import torch
from torch import Tensor

from olla.engine.kv_cache import KVCache
from olla.engine.linear import AdapterRows, Linear
from olla.engine.matrices import Dense
from olla.engine.models.batch import Batch, Span
from olla.engine.models.overlay import Module, Place
from olla.engine.models.placed import BatchMover, PlacedLayer, Tables, batch_on, placed

CPU, ELSEWHERE = torch.device("cpu"), torch.device("meta")
ROWS = torch.arange(2)
BATCH = Batch(
    tokens=ROWS,
    positions=ROWS,
    slots=ROWS,
    spans=[Span(0, 1, ROWS), Span(1, 2, slice(0, 1))],
    logit_rows=ROWS,
    cache=KVCache(4),
    adapters=[AdapterRows(1, ROWS)],
)


class FakeLayer:
    def __init__(self, device: torch.device) -> None:
        self.linears = {Linear(Dense(torch.empty(2, 2, device=device)))}
        self.seen: list[torch.device] = []
        self.batches: list[Batch] = []

    @property
    def modules(self) -> dict[str, Module]:
        return {"abc": Place(next(iter(self.linears)), 0, 3)}

    def __call__(self, states: Tensor, batch: Batch, tables: Tables) -> Tensor:
        self.seen = [tensor.device for tensor in (states, batch.tokens, *tables)]
        self.batches.append(batch)
        return torch.ones(2, device=CPU)


def test_a_layer_at_home_stays_as_it_is() -> None:
    here, there = FakeLayer(CPU), FakeLayer(ELSEWHERE)

    first, second = placed([here, there], CPU)

    assert first is here
    assert isinstance(second, PlacedLayer)
    assert second.linears == there.linears
    assert second.modules == there.modules


def test_a_layer_elsewhere_finds_everything_there() -> None:
    layer = FakeLayer(ELSEWHERE)

    states = PlacedLayer(layer, ELSEWHERE, BatchMover())(torch.ones(2), BATCH, (ROWS, ROWS))

    assert set(layer.seen) == {ELSEWHERE}
    assert states.device == CPU


def test_a_batch_moves_once_a_step() -> None:
    first, second = FakeLayer(ELSEWHERE), FakeLayer(ELSEWHERE)

    for layer in placed([first, second], CPU):
        layer(torch.ones(2), BATCH, (ROWS, ROWS))

    assert first.batches[0] is second.batches[0]


def test_every_tensor_of_a_batch_moves() -> None:
    moved = batch_on(BATCH, ELSEWHERE)

    slots = [span.slots for span in moved.spans]
    tensors = [moved.tokens, moved.positions, moved.slots, moved.logit_rows, slots[0]]
    tensors += [rows for _, rows in moved.adapters]
    assert all(isinstance(part, Tensor) and part.device == ELSEWHERE for part in tensors)
    assert slots[1] == slice(0, 1)
    assert moved.cache is BATCH.cache
