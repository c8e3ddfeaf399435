"""Merging: when the one adapter in use is merged into a copy of the weights, and who uses it.

A copy costs memory and pays only for whoever stays alone with it, so it is made a module a step
after many steps of nothing but that adapter, and dropped when it has not been used for as many.
The model itself stays as it is: a step over the copy lays it in and takes it out again.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from olla.engine.adapters import NO_ADAPTER
from olla.engine.memory import available_bytes, is_out_of_memory
from olla.engine.models.batch import CausalModel
from olla.engine.models.merged import Mergeable, mergeable
from olla.engine.sequence import Sequence, SequenceState

PATIENCE = 256
"""Steps of one adapter alone before it is merged; doubles with each copy that is dropped."""
MAX_PATIENCE = 4096
_SHARE_OF_MEMORY = 0.5
MAX_BYTES_ON_CPU = 2 * 2**30
"""Reading more weights than that for each token takes so long that deltas hardly count."""

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class MergedCopy:
    """The modules that `adapter` changes, of which the first `num_done` are merged."""

    adapter: int
    modules: list[Mergeable]
    num_done: int = 0
    num_unused_steps: int = 0

    @property
    def is_complete(self) -> bool:
        return self.num_done == len(self.modules)

    @property
    def num_bytes(self) -> int:
        return sum(module.num_bytes for module in self.modules)


class Merging:
    def __init__(
        self,
        model: CausalModel,
        dtype: torch.dtype,
        patience: int = PATIENCE,
        room: Callable[[], float] = lambda: math.inf,
    ) -> None:
        """Args:
        room: the most bytes that a copy may have now.

        In float32 merged weights give the same to rounding, so a reply may change over. In 16
        bits each reply keeps the weights that it began with, whoever comes and goes beside it.
        """
        self._model = model
        self._room = room
        self._may_change_over = dtype is torch.float32
        self._patience = patience
        self._alone = NO_ADAPTER
        self._num_steps_alone = 0
        self._copy: MergedCopy | None = None

    @property
    def copy(self) -> MergedCopy | None:
        """The copy that may be computed with."""
        return self._copy if self._copy is not None and self._copy.is_complete else None

    def before_step(self, sequences: Iterable[Sequence]) -> None:
        """Look who is there, decide which of them use the copy, and do a step's share of work."""
        present = list(sequences)
        adapters = {sequence.adapter for sequence in present}
        alone = adapters.pop() if len(adapters) == 1 else NO_ADAPTER
        self._num_steps_alone = self._num_steps_alone + 1 if alone == self._alone else 1
        self._alone = alone
        if self._copy is None:
            self._begin()
        elif not self._copy.is_complete:
            self._go_on(self._copy)
        else:
            self._assign(self._copy, present)

    def drop(self, adapter: int) -> None:
        """Forget a copy with that adapter, which no sequence uses."""
        if self._copy is not None and self._copy.adapter == adapter:
            self._drop(self._copy)

    @contextmanager
    def laid_in(self) -> Iterator[None]:
        """Inside, the model computes what it would with the copy's adapter in every row."""
        assert self.copy is not None, "no sequence is merged without a copy"
        modules = self.copy.modules
        for module in modules:
            module.swap()
        try:
            yield
        finally:
            for module in modules:
                module.swap()

    def _begin(self) -> None:
        if self._alone == NO_ADAPTER or self._num_steps_alone < self._patience:
            return
        self._num_steps_alone = 0
        modules = mergeable(self._model, self._alone)
        if not modules:
            return
        copy = MergedCopy(self._alone, modules)
        if copy.num_bytes <= self._room():
            self._copy = copy

    def _go_on(self, copy: MergedCopy) -> None:
        if self._alone != copy.adapter:
            self._drop(copy)
            return
        try:
            copy.modules[copy.num_done].merge()
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            self._drop(copy)
            return
        copy.num_done += 1
        if copy.is_complete:
            _log.info("merged adapter=%d bytes=%d", copy.adapter, copy.num_bytes)

    def _assign(self, copy: MergedCopy, present: list[Sequence]) -> None:
        is_ours = self._alone == copy.adapter
        begun = [] if self._may_change_over else [s for s in present if _has_begun(s)]
        is_merged = is_ours and all(sequence.is_merged for sequence in begun)
        for sequence in present:
            if sequence not in begun:
                sequence.is_merged = is_merged
        in_use = any(sequence.is_merged for sequence in present)
        copy.num_unused_steps = 0 if in_use else copy.num_unused_steps + 1
        if copy.num_unused_steps >= self._patience:
            self._drop(copy)

    def _drop(self, copy: MergedCopy) -> None:
        self._copy = None
        self._patience = min(2 * self._patience, MAX_PATIENCE)
        _log.info("dropped the merged copy adapter=%d bytes=%d", copy.adapter, copy.num_bytes)


def room_on(device: torch.device) -> float:
    """The most bytes that a copy of weights may take there now."""
    share = available_bytes(device) * _SHARE_OF_MEMORY
    return min(share, MAX_BYTES_ON_CPU) if device.type == "cpu" else share


def _has_begun(sequence: Sequence) -> bool:
    return sequence.state is SequenceState.RUNNING or sequence.num_generated > 0
