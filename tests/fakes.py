"""Stand-ins at the seams. None knows a model; each does what a test tells it to."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

from olla.errors import OllaError, RunnerDied
from olla.runner.protocol import (
    Embed,
    Embeddings,
    Finished,
    Generate,
    Load,
    Loaded,
    LoadProgress,
    Piece,
    Rerank,
    Scores,
    Stepped,
)

LOADED = Loaded(
    "fake",
    4096,
    total_bytes=1000,
    bytes_on_device=600,
    device="cpu",
    dtype="float32",
    bos_token="<s>",
    eos_token="</s>",
)


class FakeRunner:
    """A loaded model that answers every prompt with `reply`; one token is one word.

    `ending` is what its last word says beyond the usual.
    Tests read `requests`, `num_cancelled` and `closed`; `hold` keeps replies after their first
    piece until `release`; `die` is a crash.
    """

    def __init__(self, load: Load | None = None) -> None:
        self.load = load
        self.reply: Sequence[str | Piece] = ("Hello", " there")
        self.reason = "stop"
        self.ending: dict[str, Any] = {}
        self.requests: list[Generate] = []
        self.embeds: list[Embed] = []
        self.reranks: list[Rerank] = []
        self.tokenized: list[tuple[str, bool]] = []
        self.num_cancelled = 0
        self.closed = asyncio.Event()
        self.alive = True
        self._may_go_on = asyncio.Event()
        self._may_go_on.set()

    @property
    def loaded(self) -> Loaded:
        return LOADED

    def hold(self) -> None:
        self._may_go_on.clear()

    def release(self) -> None:
        self._may_go_on.set()

    def die(self) -> None:
        self.alive = False
        self._may_go_on.set()

    async def generate(self, request: Generate) -> AsyncGenerator[Piece | Finished, None]:
        self.requests.append(request)
        is_over = False
        try:
            for piece in self.reply:
                self._check()
                yield Piece(1, piece) if isinstance(piece, str) else piece
                await self._may_go_on.wait()
            self._check()
            is_over = True
            yield self._finished(request)
        finally:
            self.num_cancelled += not is_over

    async def embed(self, request: Embed) -> AsyncGenerator[Embeddings, None]:
        """The vector (length, 1) of each input, the last input first and each by itself."""
        self.embeds.append(request)
        is_over = False
        try:
            for place in reversed(range(len(request.inputs))):
                await self._may_go_on.wait()
                self._check()
                length = len(request.inputs[place])
                is_over = place == 0
                data = struct.pack("<2f", length, 1)
                yield Embeddings(1, [place], data, [length], is_last=is_over)
        finally:
            self.num_cancelled += not is_over

    async def rerank(self, request: Rerank) -> Scores:
        """A document scores by its length."""
        self.reranks.append(request)
        return Scores(1, [len(document) / 10 for document in request.documents], 7)

    async def tokenize(
        self, text: str, add_special_tokens: bool = False, images: Sequence[bytes] = ()
    ) -> list[int]:
        """An image is as many tokens as its file has bytes."""
        self._check()
        self.tokenized.append((text, add_special_tokens))
        return [len(word) for word in text.split()] + [0] * sum(map(len, images))

    async def detokenize(self, tokens: Sequence[int]) -> str:
        self._check()
        return " ".join("x" * token for token in tokens)

    async def close(self) -> None:
        self.alive = False
        self.closed.set()

    def _check(self) -> None:
        if not self.alive:
            raise RunnerDied

    def _finished(self, request: Generate) -> Finished:
        num_prompt = len(request.prompt.split()) + len(request.context)
        context = [*request.context, 7, 8] if request.want_context else []
        num_tokens = len(self.reply)
        return Finished(
            1, self.reason, num_prompt, 10, num_tokens, 20, context=context, **self.ending
        )


class FakeSpawn:
    """Starts fake runners. `hold` keeps loads waiting until `release`; `error` fails them.

    `on_progress` and `on_stepped` are those of the last load.
    """

    def __init__(self) -> None:
        self.runners: list[FakeRunner] = []
        self.loads: list[Load] = []
        self.error: OllaError | None = None
        self.on_stepped: Callable[[Stepped], None] = lambda _stepped: None
        self.on_progress: Callable[[LoadProgress], None] = lambda _progress: None
        self.has_begun = asyncio.Event()
        self._may_go_on = asyncio.Event()
        self._may_go_on.set()

    def hold(self) -> None:
        self._may_go_on.clear()

    def release(self) -> None:
        self._may_go_on.set()

    async def __call__(
        self,
        load: Load,
        *,
        load_timeout_s: float,
        on_progress: Callable[[LoadProgress], None],
        on_stepped: Callable[[Stepped], None],
    ) -> FakeRunner:
        self.loads.append(load)
        self.on_stepped = on_stepped
        self.on_progress = on_progress
        self.has_begun.set()
        await self._may_go_on.wait()
        if self.error is not None:
            raise self.error
        runner = FakeRunner(load)
        self.runners.append(runner)
        return runner
