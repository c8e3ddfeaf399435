"""PooledDecoder: vectors from a model that writes text, out of its last hidden states.

Batches are as ragged as the engine's own, each text attending to itself alone, over a small cache
that lives as long as the batch. A long text is read in parts, between which replies go on. What
a model does not say about its pooling is the last token, the one that has seen all others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor

from olla.engine.inputs import Reading
from olla.engine.kv_cache import KVCache
from olla.engine.models.batch import Batch, CausalModel, Span
from olla.engine.pooling import GGUF_POOLINGS, Head, Pooling, read_head
from olla.formats.gguf import read_gguf

TOKENS_PER_BATCH = 512


class PooledDecoder:
    scores_pairs = False
    has_unit_vectors = True

    def __init__(self, network: CausalModel, head: Head, device: torch.device) -> None:
        self._network = network
        self._head = head
        self._device = device

    def batches(self, lengths: Sequence[int]) -> list[list[int]]:
        """The shortest texts first, as many together as the budget has tokens for."""
        batches: list[list[int]] = []
        room = 0
        for place in sorted(range(len(lengths)), key=lambda place: lengths[place]):
            if not batches or lengths[place] > room:
                batches.append([])
                room = TOKENS_PER_BATCH
            batches[-1].append(place)
            room -= lengths[place]
        return batches

    def embed(self, readings: Sequence[Reading]) -> Iterator[Tensor | None]:
        texts = [reading.tokens for reading in readings]
        if len(texts) > 1:
            yield self._embed_together(texts)
            return
        (tokens,) = texts
        cache = KVCache(len(tokens))
        parts: list[Tensor] = []
        for start in range(0, len(tokens), TOKENS_PER_BATCH):
            if parts:
                yield None
            end = min(start + TOKENS_PER_BATCH, len(tokens))
            span = Span(0, end - start, slice(0, end))
            slots = torch.arange(start, end, device=self._device)
            parts.append(self._states(tokens[start:end], slots, slots, [span], cache))
        yield self._head(torch.cat(parts)[None])

    def _embed_together(self, texts: Sequence[list[int]]) -> Tensor:
        lengths = [len(tokens) for tokens in texts]
        ends = list(accumulate(lengths))
        spans = [
            Span(end - length, end, slice(end - length, end))
            for end, length in zip(ends, lengths, strict=True)
        ]
        slots = torch.arange(ends[-1], device=self._device)
        positions = torch.cat([torch.arange(length, device=self._device) for length in lengths])
        tokens = [token for text in texts for token in text]
        states = self._states(tokens, positions, slots, spans, KVCache(ends[-1]))
        return torch.cat([self._head(states[None, span.start : span.end]) for span in spans])

    @torch.inference_mode()
    def _states(
        self,
        tokens: Sequence[int],
        positions: Tensor,
        slots: Tensor,
        spans: Sequence[Span],
        cache: KVCache,
    ) -> Tensor:
        ids = torch.tensor(tokens, dtype=torch.int64, device=self._device)
        no_logits = torch.empty(0, dtype=torch.int64, device=self._device)
        return self._network.hidden_states(Batch(ids, positions, slots, spans, no_logits, cache))


def decoder_head(files: Mapping[str, str], device: torch.device) -> Head:
    """What the model's files say about making vectors.

    Raises:
        FormatError: a file is broken, or of a kind that olla does not know.
    """
    paths = {name: Path(path) for name, path in files.items()}
    for name, path in paths.items():
        if name.endswith(".gguf"):
            metadata = read_gguf(path).metadata
            kind = metadata.get(f"{metadata.get('general.architecture')}.pooling_type")
            number = kind if isinstance(kind, int) else -1
            return Head((GGUF_POOLINGS.get(number, Pooling.LAST),))
    return read_head(paths, device, Pooling.LAST)
