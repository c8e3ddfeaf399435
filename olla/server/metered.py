"""The services, with what they do counted on its way through."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Protocol

from olla.errors import InvalidName
from olla.names import ModelName
from olla.registry.store import ModelStore
from olla.requests import ChatChunk, ChatRequest, GenerateRequest, Progress, TransferOptions
from olla.server.metrics import OTHER, Metrics

Chunks = AsyncGenerator[ChatChunk, None]
Transfer = Callable[[ModelName, ModelStore, TransferOptions], AsyncGenerator[Progress, None]]
Push = Callable[[ModelName, ModelName, ModelStore, TransferOptions], AsyncGenerator[Progress, None]]
"""A model of the store, and the name that says where it goes."""


class Answers(Protocol):
    """What handlers ask for replies."""

    def chat(self, request: ChatRequest) -> Chunks: ...

    def generate(self, request: GenerateRequest) -> Chunks: ...

    async def count_tokens(self, request: ChatRequest) -> int: ...


class MeteredAnswers:
    def __init__(self, answers: Answers, metrics: Metrics) -> None:
        self._answers = answers
        self._metrics = metrics

    def chat(self, request: ChatRequest) -> Chunks:
        return self._metered(request.model, self._answers.chat(request))

    def generate(self, request: GenerateRequest) -> Chunks:
        return self._metered(request.model, self._answers.generate(request))

    async def count_tokens(self, request: ChatRequest) -> int:
        return await self._answers.count_tokens(request)

    async def _metered(self, text: str, chunks: Chunks) -> Chunks:
        started = time.monotonic()
        has_begun = False
        async with aclosing(chunks):
            async for chunk in chunks:
                if not has_begun and (chunk.content or chunk.thinking or chunk.tool_calls):
                    has_begun = True
                    self._metrics.began(_label(text), time.monotonic() - started)
                if chunk.done_reason is not None:
                    self._metrics.ended(_label(text), chunk.timings)
                yield chunk


def metered_pull(pull: Transfer, metrics: Metrics) -> Transfer:
    """Count the bytes of each blob as they come; those that were there already do not."""

    async def counted(
        name: ModelName, store: ModelStore, options: TransferOptions
    ) -> AsyncGenerator[Progress, None]:
        done: dict[str, int] = {}
        async with aclosing(pull(name, store, options)) as steps:
            async for step in steps:
                if step.digest and not options.dry_run:
                    is_here = step.digest not in done and step.completed_bytes == step.total_bytes
                    before = step.completed_bytes if is_here else done.get(step.digest, 0)
                    metrics.pulled(step.completed_bytes - before)
                    done[step.digest] = max(before, step.completed_bytes)
                yield step

    return counted


def _label(text: str) -> str:
    """A model as lists name it, whatever the client called it."""
    try:
        return ModelName.parse(text).short
    except InvalidName:
        return OTHER
