"""Executor: scheduled sequences -> logits. Owns the sequences' caches; samples nothing."""

from __future__ import annotations

from collections.abc import Sequence as Rows
from typing import Any

import torch
from torch import Tensor

from olla.engine.adapters import NO_ADAPTER
from olla.engine.linear import AdapterRows
from olla.engine.models.batch import Batch, Cache, CausalModel, Span
from olla.engine.scheduler import Scheduled
from olla.engine.sequence import Sequence


class Executor:
    def __init__(self, model: CausalModel[Any], device: torch.device) -> None:
        self._model = model
        self._device = device
        self._caches: dict[Sequence, Cache] = {}

    def forward(self, scheduled: Rows[Scheduled]) -> Tensor:
        """Compute the scheduled tokens.

        Returns:
            (num_rows, vocab_size) float32: one row for each item that `reaches_end`, in order.
        """
        logits = self._model.forward(self._batch(scheduled))
        for item in scheduled:
            item.sequence.num_computed += item.num_tokens
        return logits

    def release(self, sequence: Sequence) -> None:
        """Free the cache of a sequence that is finished."""
        self._caches.pop(sequence, None)

    @property
    def cache_bytes(self) -> int:
        return sum(cache.num_bytes for cache in self._caches.values())

    def _batch(self, scheduled: Rows[Scheduled]) -> Batch[Cache]:
        tokens: list[int] = []
        positions: list[int] = []
        spans: list[Span[Cache]] = []
        last_rows: list[int] = []
        for item in scheduled:
            first, end = item.sequence.num_computed, item.sequence.num_computed + item.num_tokens
            spans.append(Span(self._cache(item.sequence), len(tokens), len(tokens) + end - first))
            tokens += item.sequence.tokens[first:end]
            positions += range(first, end)
            if item.reaches_end:
                last_rows.append(len(tokens) - 1)
        return Batch(
            tokens=self._ids(tokens),
            positions=self._ids(positions),
            spans=spans,
            logit_rows=self._ids(last_rows),
            adapters=self._adapter_rows(scheduled, spans),
        )

    def _cache(self, sequence: Sequence) -> Cache:
        """The sequence's cache, holding just the tokens that count as computed."""
        cache = self._caches.get(sequence)
        if cache is None:
            cache = self._caches[sequence] = self._model.new_cache()
        cache.truncate(sequence.num_computed)
        return cache

    def _adapter_rows(
        self, scheduled: Rows[Scheduled], spans: Rows[Span[Cache]]
    ) -> tuple[AdapterRows, ...]:
        rows: dict[int, list[int]] = {}
        for item, span in zip(scheduled, spans, strict=True):
            rows.setdefault(item.sequence.adapter, []).extend(range(span.start, span.end))
        rows.pop(NO_ADAPTER, None)
        return tuple(AdapterRows(adapter, self._ids(ids)) for adapter, ids in rows.items())

    def _ids(self, values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self._device)
