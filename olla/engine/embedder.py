"""Embedder: vectors and scores of texts, beside the replies that an Engine writes.

One step is one batch of one request, the requests taking turns, so whoever alternates steps with
the engine's keeps replies flowing. Speaks the runner's messages and knows nothing of pipes or
threads: `prepare` may run in another thread than the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from olla.engine.grammar import Constraint
from olla.engine.image_places import PlacedImage, PlacedPrompt
from olla.engine.inputs import InputReader, Reading
from olla.engine.memory import is_out_of_memory
from olla.errors import BadInput
from olla.runner.protocol import (
    Embed,
    Embeddings,
    Failed,
    FailureKind,
    FromRunner,
    Generate,
    Grammar,
    Rerank,
    Scores,
)


class VectorModel(Protocol):
    """A loaded model that turns texts into vectors, or pairs of texts into scores."""

    @property
    def scores_pairs(self) -> bool: ...

    @property
    def has_unit_vectors(self) -> bool:
        """Whether its vectors are of unit length whether or not that is asked for."""
        ...

    def batches(self, lengths: Sequence[int]) -> list[list[int]]:
        """Which texts to compute together, by their places."""
        ...

    def embed(self, readings: Sequence[Reading]) -> Iterator[Tensor | None]:
        """The vectors (num_texts, width) float32 of one batch, after a None for each pause."""
        ...


@dataclass(frozen=True, slots=True)
class Job:
    """A request with its texts as the model reads them: for Rerank pairs, or the query first."""

    request: Embed | Rerank
    readings: list[Reading]


class Embedder:
    def __init__(self, model: VectorModel, reader: InputReader) -> None:
        self._model = model
        self._reader = reader
        self._running: dict[int, Iterator[FromRunner | None]] = {}

    @property
    def has_work(self) -> bool:
        return bool(self._running)

    def prepare(self, request: Embed | Rerank) -> Job:
        """
        Raises:
            BadInput: an input that cannot be used, or a model that scores pairs only.
            PromptTooLong: an input does not fit and may not be cut.
        """
        read = self._reader.read
        if isinstance(request, Embed):
            if self._model.scores_pairs:
                raise BadInput(
                    "this model scores pairs of texts and has no vectors; use /api/rerank"
                )
            return Job(request, read(request.inputs, request.num_ctx, request.truncate))
        query, documents, num_ctx = request.query, request.documents, request.num_ctx
        if self._model.scores_pairs:
            return Job(request, self._reader.read_pairs(query, documents, num_ctx))
        return Job(request, read([query, *documents], num_ctx, truncate=True))

    def add(self, job: Job) -> None:
        request = job.request
        self._running[request.id] = (
            self._vectors(request, job.readings)
            if isinstance(request, Embed)
            else self._scores(request, job.readings)
        )

    def cancel(self, request_id: int) -> None:
        """Forget a request; one that is finished already is no error."""
        self._running.pop(request_id, None)

    def step(self) -> list[FromRunner]:
        """One forward pass, if there is something to do; the messages that came of it."""
        if not self._running:
            return []
        number, steps = next(iter(self._running.items()))
        del self._running[number]
        try:
            message = next(steps)
        except StopIteration:
            return self.step()
        except BadInput as error:
            return [Failed(number, FailureKind.BAD_INPUT, str(error))]
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            text = "the input requires more system memory than is available"
            return [Failed(number, FailureKind.OUT_OF_MEMORY, text)]
        self._running[number] = steps  # behind the others
        return [] if message is None else [message]

    def _vectors(self, request: Embed, readings: list[Reading]) -> Iterator[FromRunner | None]:
        is_unit = request.normalize or self._model.has_unit_vectors
        num_left = len(readings)
        if not readings:
            yield Embeddings(request.id, [], b"", [], is_last=True)
        for places, vectors in self._computed(readings):
            if vectors is None:
                yield None
                continue
            num_left -= len(places)
            finished = _finish(vectors, request.dimensions, is_unit)
            counts = [len(readings[place].tokens) for place in places]
            data = finished.cpu().numpy().astype("<f4").tobytes()
            yield Embeddings(request.id, places, data, counts, is_last=num_left == 0)

    def _scores(self, request: Rerank, readings: list[Reading]) -> Iterator[FromRunner | None]:
        found: list[Tensor] = [torch.empty(0)] * len(readings)
        for places, vectors in self._computed(readings):
            yield None
            for place, vector in zip(places, () if vectors is None else vectors, strict=False):
                found[place] = vector
        num_tokens = sum(len(reading.tokens) for reading in readings)
        yield Scores(request.id, self._ranked(found), num_tokens)

    def _ranked(self, found: list[Tensor]) -> list[float]:
        if not found:
            return []
        vectors = torch.stack(found)
        if self._model.scores_pairs:
            return _checked(vectors[:, 0]).tolist()
        units = _finish(vectors, 0, is_unit=True)
        return (units[1:] @ units[0]).clamp(-1.0, 1.0).tolist()

    def _computed(self, readings: list[Reading]) -> Iterator[tuple[list[int], Tensor | None]]:
        """Each batch's places with its vectors, after one with None for each of its pauses."""
        for places in self._model.batches([len(reading.tokens) for reading in readings]):
            for vectors in self._model.embed([readings[place] for place in places]):
                yield places, vectors


class _TextReader:
    """In a PromptReader's place where the model writes no text."""

    def __init__(self, reader: InputReader) -> None:
        self._reader = reader

    def tokenize(self, text: str, images: Sequence[bytes], add_special_tokens: bool) -> list[int]:
        """The tokens of a text, as a PromptReader has them."""
        if images:
            raise BadInput("this model reads no images; leave them out, or use one that does")
        return self._reader.encode(text, add_special_tokens)

    def read(self, request: Generate) -> PlacedPrompt:
        """Nothing, since `NoEngine.add` refuses every request."""
        return PlacedPrompt([])


class NoEngine:
    """In an Engine's place where the model writes no text."""

    has_work = False
    num_used_tokens = 0
    num_cache_tokens = 0

    def __init__(self, reader: InputReader) -> None:
        self.reader = _TextReader(reader)
        self.decode = reader.decode

    def prepare(self, request: Generate) -> None:
        """There is nothing to read."""

    def constrain(self, grammar: Grammar | None) -> None:
        """There is nothing to constrain."""

    def add(
        self,
        request: Generate,
        tokens: list[int],
        constraint: Constraint | None = None,
        images: tuple[PlacedImage, ...] = (),
    ) -> None:
        raise BadInput("this model does not support generate: it makes vectors or scores of texts")

    def cancel(self, request_id: int) -> None:
        """Nothing runs here."""

    def step(self) -> list[FromRunner]:
        return []


def _finish(vectors: Tensor, dimensions: int, is_unit: bool) -> Tensor:
    if 0 < dimensions < vectors.shape[1]:
        vectors = vectors[:, :dimensions]
    return _checked(functional.normalize(vectors, dim=-1) if is_unit else vectors)


def _checked(values: Tensor) -> Tensor:
    if not values.isfinite().all():
        raise BadInput("embedding contains NaN or Inf values")
    return values
