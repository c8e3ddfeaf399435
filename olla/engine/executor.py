"""Executor: scheduled sequences -> logits. Owns the cache's tensors; samples nothing."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Rows

import torch
from torch import Tensor

from olla.engine.adapters import NO_ADAPTER
from olla.engine.cuda_graphs import DecodeGraphs, DecodeInputs, Record, padded_shape
from olla.engine.image_places import axes
from olla.engine.kv_cache import KVCache
from olla.engine.linear import AdapterRows
from olla.engine.merging import MergedCopy, Merging
from olla.engine.models.batch import Batch, BlockTables, CausalModel, ImageRows, Span
from olla.engine.profile import Profile
from olla.engine.scheduler import Scheduled
from olla.engine.sequence import Sequence


class Executor:
    def __init__(
        self,
        model: CausalModel,
        device: torch.device,
        num_blocks: int,
        block_size: int,
        profile: Profile,
        merging: Merging | None = None,
        record: Record | None = None,
    ) -> None:
        """Args:
        merging: lays merged weights in for the sequences that use them; None if none do.
        record: how to record a step that decodes; None computes every step as it comes.
        """
        self._profile = profile
        self._model = model
        self._merging = merging
        self._device = device
        self._block_size = block_size
        self._offsets = torch.arange(block_size, device=device)
        # One block more than sequences can have, for the rows that fill up a recording.
        self._cache = KVCache((num_blocks + 1) * block_size)
        self._graphs = None
        if record is not None:
            self._graphs = Recordings(
                lambda: DecodeGraphs(self._decode, record, num_blocks, block_size)
            )

    def forward(self, scheduled: Rows[Scheduled]) -> Tensor:
        """Compute the scheduled tokens.

        Returns:
            (num_rows, vocab_size) float32: `num_logits` rows for each item, in order.
        """
        if self._graphs is not None and self._merging is not None:
            self._graphs.forget_dropped(self._merging.copy)
        merged = [item for item in scheduled if item.sequence.is_merged]
        if not merged:
            return self._forward(scheduled, None)
        if len(merged) == len(scheduled):
            return self._forward_merged(merged)
        others = [item for item in scheduled if not item.sequence.is_merged]
        # A recording's outputs are good until the next one runs.
        rows = _by_item(self._forward_merged(merged).clone(), merged)
        rows |= _by_item(self._forward(others, None), others)
        return torch.cat([rows[item] for item in scheduled])

    def _forward_merged(self, scheduled: Rows[Scheduled]) -> Tensor:
        assert self._merging is not None, "a sequence is merged by it"
        with self._merging.laid_in():
            return self._forward(scheduled, self._merging.copy)

    def _forward(self, scheduled: Rows[Scheduled], copy: MergedCopy | None) -> Tensor:
        if self._graphs is not None and _is_recordable(scheduled):
            with self._profile.stage("inputs"):
                inputs = self._decode_inputs(scheduled)
            with self._profile.stage("forward"):
                return self._graphs.over(copy).run(inputs)
        with self._profile.stage("inputs"):
            batch = self._batch(scheduled)
        with self._profile.stage("forward"):
            return self._model.forward(batch)

    def _decode(self, inputs: DecodeInputs) -> Tensor:
        return self._model.forward(
            Batch(
                tokens=inputs.tokens,
                positions=inputs.positions,
                slots=inputs.slots,
                spans=(),
                logit_rows=torch.arange(len(inputs.tokens), device=self._device),
                cache=self._cache,
                tables=BlockTables(inputs.tables, inputs.lengths, self._block_size),
            )
        )

    def _decode_inputs(self, scheduled: Rows[Scheduled]) -> DecodeInputs:
        sequences = [item.sequence for item in scheduled]
        places = [sequence.num_computed for sequence in sequences]
        longest = max(len(sequence.block_table) for sequence in sequences)
        tables = [s.block_table + [0] * (longest - len(s.block_table)) for s in sequences]
        slots = [
            self._slot(s.block_table, place) for s, place in zip(sequences, places, strict=True)
        ]
        positions = self._ids(places)
        return DecodeInputs(
            tokens=self._ids([sequence.tokens[-1] for sequence in sequences]),
            positions=positions,
            slots=self._ids(slots),
            tables=torch.tensor(tables, dtype=torch.int64, device=self._device),
            lengths=positions + 1,
        )

    def _batch(self, scheduled: Rows[Scheduled]) -> Batch:
        tokens: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        spans: list[Span] = []
        logit_rows: list[int] = []
        images: list[ImageRows] = []
        for item in scheduled:
            sequence = item.sequence
            first, end = sequence.num_computed, item.end
            where = self._slots(sequence.block_table, end)
            images += _image_rows(sequence, first, end, len(tokens))
            spans.append(Span(len(tokens), len(tokens) + end - first, where, _blocks(sequence)))
            tokens += item.tokens
            positions += range(first, end)
            slots += [self._slot(sequence.block_table, place) for place in range(first, end)]
            logit_rows += range(len(tokens) - item.num_logits, len(tokens))
        return Batch(
            tokens=self._ids(tokens),
            positions=self._ids(positions),
            slots=self._ids(slots),
            spans=spans,
            logit_rows=self._ids(logit_rows),
            cache=self._cache,
            adapters=self._adapter_rows(scheduled, spans),
            images=images,
            axes=self._axes(scheduled),
        )

    def _axes(self, scheduled: Rows[Scheduled]) -> Tensor | None:
        """All positions along three axes, if any sequence's differ along them."""
        placed = [place for item in scheduled for place in item.sequence.images]
        if not any(place.image.grid for place in placed):
            return None
        found = [
            position
            for item in scheduled
            for position in axes(item.sequence.images, item.sequence.num_computed, item.end)
        ]
        return torch.tensor(found, dtype=torch.int64, device=self._device).T

    def _slot(self, block_table: list[int], position: int) -> int:
        index, offset = divmod(position, self._block_size)
        return block_table[index] * self._block_size + offset

    def _slots(self, block_table: list[int], length: int) -> Tensor | slice:
        """Where the first `length` tokens of a sequence lie; one slice if that is side by side."""
        first = block_table[0]
        if block_table == list(range(first, first + len(block_table))):
            start = first * self._block_size
            return slice(start, start + length)
        starts = self._ids(block_table)[:, None] * self._block_size
        return (starts + self._offsets).flatten()[:length]

    def _adapter_rows(
        self, scheduled: Rows[Scheduled], spans: Rows[Span]
    ) -> tuple[AdapterRows, ...]:
        rows: dict[int, list[int]] = {}
        for item, span in zip(scheduled, spans, strict=True):
            if not item.sequence.is_merged:
                numbers = range(span.start, span.end)
                rows.setdefault(item.sequence.adapter, []).extend(numbers)
        rows.pop(NO_ADAPTER, None)
        return tuple(AdapterRows(adapter, self._ids(ids)) for adapter, ids in rows.items())

    def _ids(self, values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self._device)


class Recordings:
    """Those over the model's own weights, and those over the merged copy while it is the same."""

    def __init__(self, make: Callable[[], DecodeGraphs]) -> None:
        self._make = make
        self._own = make()
        self._merged: tuple[MergedCopy, DecodeGraphs] | None = None

    def over(self, copy: MergedCopy | None) -> DecodeGraphs:
        if copy is None:
            return self._own
        if self._merged is None or self._merged[0] is not copy:
            self._merged = (copy, self._make())
        return self._merged[1]

    def forget_dropped(self, copy: MergedCopy | None) -> None:
        """Let go of a copy, and of its memory, that is no longer `copy`."""
        if self._merged is not None and self._merged[0] is not copy:
            self._merged = None


def _by_item(logits: Tensor, scheduled: Rows[Scheduled]) -> dict[Scheduled, Tensor]:
    parts = torch.split(logits, [item.num_logits for item in scheduled])
    return dict(zip(scheduled, parts, strict=True))


def _is_recordable(scheduled: Rows[Scheduled]) -> bool:
    """Whether each sequence decodes one token, with no delta, in a shape for recordings."""
    sequences = [item.sequence for item in scheduled]
    return (
        all(item.num_tokens == item.num_logits == 1 for item in scheduled)
        and all(sequence.adapter == NO_ADAPTER or sequence.is_merged for sequence in sequences)
        and padded_shape(len(sequences), max(len(s.block_table) for s in sequences)) is not None
    )


def _blocks(sequence: Sequence) -> list[tuple[int, int]]:
    return [(place.start, place.end) for place in sequence.images if place.image.is_whole]


def _image_rows(sequence: Sequence, first: int, end: int, row: int) -> list[ImageRows]:
    """The parts of images among the tokens [first, end), which begin at `row` of the batch."""
    found = []
    for place in sequence.images:
        start, stop = max(first, place.start), min(end, place.end)
        if start < stop:
            moved = row - first
            rows = ImageRows(place.image, start - place.start, start + moved, stop + moved)
            found.append(rows)
    return found
