"""A layer on another device than the model's: what goes in moves there, what comes out moves back.

Only the states of a step's tokens travel, which are small beside the layer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from olla.engine.linear import AdapterRows, Linear
from olla.engine.models.batch import Batch
from olla.engine.models.overlay import Module

Tables = tuple[Tensor, Tensor]


class Layer(Protocol):
    """What the decoder asks of a layer."""

    @property
    def linears(self) -> set[Linear]: ...

    def __call__(self, states: Tensor, batch: Batch, tables: Tables) -> Tensor: ...

    @property
    def modules(self) -> dict[str, Module]: ...


class PlacedLayer:
    """`layer` on `device`, as seen from elsewhere. The batch is moved once a step."""

    def __init__(self, layer: Layer, device: torch.device, mover: BatchMover) -> None:
        self._layer = layer
        self._device = device
        self._mover = mover

    @property
    def linears(self) -> set[Linear]:
        return self._layer.linears

    @property
    def modules(self) -> dict[str, Module]:
        return self._layer.modules

    def __call__(self, states: Tensor, batch: Batch, tables: Tables) -> Tensor:
        cosines, sines = tables
        moved = (cosines.to(self._device), sines.to(self._device))
        there = self._mover.move(batch, self._device)
        return self._layer(states.to(self._device), there, moved).to(states.device)


class BatchMover:
    """Batches on other devices; remembers those of the last one, which every layer asks for."""

    def __init__(self) -> None:
        self._batch: Batch | None = None
        self._moved: dict[torch.device, Batch] = {}

    def move(self, batch: Batch, device: torch.device) -> Batch:
        if batch is not self._batch:
            self._batch, self._moved = batch, {}
        if device not in self._moved:
            self._moved[device] = batch_on(batch, device)
        return self._moved[device]


def placed(layers: Iterable[Layer], home: torch.device) -> list[Layer]:
    """The layers, wrapped where their weights are on another device than `home`."""
    mover = BatchMover()
    return [
        layer if (device := _device(layer)) == home else PlacedLayer(layer, device, mover)
        for layer in layers
    ]


def batch_on(batch: Batch, device: torch.device) -> Batch:
    """The batch with all its tensors on `device`; the cache is the same."""
    return replace(
        batch,
        tokens=batch.tokens.to(device),
        positions=batch.positions.to(device),
        slots=batch.slots.to(device),
        logit_rows=batch.logit_rows.to(device),
        spans=[
            span if isinstance(span.slots, slice) else replace(span, slots=span.slots.to(device))
            for span in batch.spans
        ],
        adapters=[AdapterRows(number, rows.to(device)) for number, rows in batch.adapters],
    )


def _device(layer: Layer) -> torch.device:
    return next(iter(layer.linears)).weight.like.device
