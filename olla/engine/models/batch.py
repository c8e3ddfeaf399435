"""Batch: one step's work, and what a model must offer to compute it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from torch import Tensor

from olla.engine.linear import AdapterRows


class Cache(Protocol):
    """What a sequence has behind it, in whatever form its model keeps that."""

    length: int

    @property
    def num_bytes(self) -> int: ...

    def truncate(self, length: int) -> None: ...


CacheT = TypeVar("CacheT", bound=Cache)


@dataclass(frozen=True, slots=True)
class Span(Generic[CacheT]):
    """The tokens [start, end) of a batch, which belong to the sequence with this cache."""

    cache: CacheT
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Batch(Generic[CacheT]):
    """The new tokens of many sequences in one flat row, each sequence with its own cache.

    tokens, positions: (num_tokens,) int64. logit_rows: (num_logits,) int64, the tokens whose
    successor is wanted. adapters: which rows use which adapter.
    """

    tokens: Tensor
    positions: Tensor
    spans: Sequence[Span[CacheT]]
    logit_rows: Tensor
    adapters: Sequence[AdapterRows] = ()


class ModelConfig(Protocol):
    """What the engine asks of a config, whatever the architecture."""

    @property
    def architecture(self) -> str: ...

    @property
    def vocab_size(self) -> int: ...

    @property
    def context_length(self) -> int: ...


class CausalModel(Protocol[CacheT]):
    """A loaded language model: the lean decoder, or one of transformers'."""

    @property
    def config(self) -> ModelConfig: ...

    @property
    def num_bytes(self) -> int: ...

    def forward(self, batch: Batch[CacheT]) -> Tensor:
        """Logits (num_logits, vocab_size) float32; the caches hold the batch's tokens after."""
        ...

    def new_cache(self) -> CacheT:
        """An empty cache for one more sequence."""
        ...

    def add_adapter(self, adapter: int, module: str, a: Tensor, b: Tensor) -> None:
        """Lay a low-rank pair, a (rank, in) and b (out, rank), over one linear."""
        ...

    def remove_adapter(self, adapter: int) -> None:
        """Take an adapter off every linear."""
        ...
