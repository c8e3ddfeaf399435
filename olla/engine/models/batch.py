"""Batch: one step's work, and what a model must offer to compute it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from olla.engine.image_places import Image
from olla.engine.kv_cache import KVCache
from olla.engine.linear import AdapterRows
from olla.engine.parts import Part


@dataclass(frozen=True, slots=True)
class Span:
    """The tokens [start, end) of a batch, which belong to one sequence.

    `slots`: where its keys lie in the cache, those of the past and of these tokens, in order.
    `blocks`: the parts of the sequence whose tokens see each other in both directions.
    """

    start: int
    end: int
    slots: Tensor | slice
    blocks: Sequence[tuple[int, int]] = ()


@dataclass(frozen=True, slots=True)
class ImageRows:
    """The tokens [start, end) of a batch stand for an image's tokens from `first` on."""

    image: Image
    first: int
    start: int
    end: int


class BlockTables(NamedTuple):
    """Where the keys of sequences with one new token each lie, in shapes that do not vary.

    blocks: (num_rows, num_blocks) int64, the blocks of each sequence in order, any block behind
    them. lengths: (num_rows,) int64, the new token included.
    """

    blocks: Tensor
    lengths: Tensor
    block_size: int


@dataclass(frozen=True, slots=True)
class Batch:
    """The new tokens of many sequences in one flat row.

    tokens, positions, slots: (num_tokens,) int64; a token's keys go to its slot. logit_rows:
    (num_logits,) int64, the tokens whose successor is wanted. adapters: which rows use which.
    tables: instead of spans, where every sequence has one token.
    axes: (3, num_tokens) positions along time, height and width, where they differ.
    """

    tokens: Tensor
    positions: Tensor
    slots: Tensor
    spans: Sequence[Span]
    logit_rows: Tensor
    cache: KVCache
    adapters: Sequence[AdapterRows] = ()
    tables: BlockTables | None = None
    images: Sequence[ImageRows] = ()
    axes: Tensor | None = None


class ModelConfig(Protocol):
    """What the engine asks of a config, whatever the architecture."""

    @property
    def architecture(self) -> str: ...

    @property
    def vocab_size(self) -> int: ...

    @property
    def context_length(self) -> int: ...


class CausalModel(Protocol):
    """A loaded language model: the lean decoder, or one of transformers'."""

    @property
    def config(self) -> ModelConfig: ...

    @property
    def num_bytes(self) -> int: ...

    @property
    def cache_bytes_per_token(self) -> int: ...

    def forward(self, batch: Batch) -> Tensor:
        """Logits (num_logits, vocab_size) float32; the cache holds the batch's tokens after."""
        ...

    def hidden_states(self, batch: Batch) -> Tensor:
        """What the logits of every token would be made of, (num_tokens, hidden_size)."""
        ...

    def add_adapter(self, adapter: int, parts: Sequence[Part]) -> None:
        """Lay an adapter over the model; FormatError if it does not fit."""
        ...

    def remove_adapter(self, adapter: int) -> None:
        """Take off whatever was laid under that number."""
        ...


def picked_rows(adapters: Sequence[AdapterRows], picked: Tensor) -> list[AdapterRows]:
    """The same among the rows `picked` (count,) alone, numbered as they stand there."""
    return [
        AdapterRows(number, torch.isin(picked, rows).nonzero()[:, 0]) for number, rows in adapters
    ]
