"""Inference: the one path that chat and generate share: resolve, check, load, prompt, run.

Knows no JSON, no HTTP and no tensors. Where checks can fail, the first that does answers (spec/
api.md sections 4.2 and 5.2). A reply that is closed early frees the engine at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from functools import lru_cache
from typing import TypeVar

from olla.errors import RunnerDied
from olla.inference.prompt import fit
from olla.inference.resolve import resolve
from olla.inference.work import Work, chat_work, generate_work, to_runner
from olla.registry.model import Model
from olla.registry.store import ModelStore
from olla.registry.threads import run_to_end
from olla.renderers.base import choose
from olla.renderers.conversation import Conversation
from olla.requests import (
    ChatChunk,
    ChatRequest,
    DoneReason,
    GenerateRequest,
    InferenceRequest,
    Timings,
)
from olla.runner.pool import Lease, RunnerPool
from olla.runner.process import Runner
from olla.runner.protocol import Finished, Generate, Piece
from olla.settings import Settings

MAX_TEMPLATES = 16
MAX_RENDERS = 2
"""At once: a slow template may hold a thread for a second, and others need theirs meanwhile."""

Chunks = AsyncGenerator[ChatChunk, None]
_Request = TypeVar("_Request", bound=InferenceRequest)


class Inference:
    def __init__(self, store: ModelStore, pool: RunnerPool, settings: Settings) -> None:
        self._store = store
        self._pool = pool
        self._settings = settings
        self._choose = lru_cache(MAX_TEMPLATES)(choose)  # compiling a template takes a while
        self._renders = asyncio.Semaphore(MAX_RENDERS)

    def chat(self, request: ChatRequest) -> Chunks:
        """The next message of a conversation; without messages, load or unload the model.

        Raises:
            OllaError: at the first step, before anything is yielded, or in mid-reply.
        """
        return self._answer(request, chat_work, is_empty=not request.messages)

    def generate(self, request: GenerateRequest) -> Chunks:
        """What follows a prompt; without a prompt, load or unload the model. Raises as `chat`."""
        return self._answer(request, generate_work, is_empty=not request.prompt)

    async def _answer(
        self,
        request: _Request,
        make_work: Callable[[Model, _Request, Settings], Work],
        *,
        is_empty: bool,
    ) -> Chunks:
        started = time.monotonic_ns()
        model = await asyncio.to_thread(resolve, self._store, request.model)
        if is_empty and request.keep_alive_s == 0:
            self._pool.unload(model.name)
            yield ChatChunk(done_reason=DoneReason.UNLOAD)
            return
        work = make_work(model, request, self._settings)
        async with aclosing(self._run(work, started)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def _run(self, work: Work, started: int) -> Chunks:
        lease = await self._pool.acquire(work.runnable, work.request.keep_alive_s)
        try:
            if work.is_load:
                yield ChatChunk(done_reason=DoneReason.LOAD)
                return
            message = await self._message(work, lease.runner)
            if work.request.debug_render_only:
                yield ChatChunk(rendered_prompt=message.prompt)
                return
            async with aclosing(_reply(lease, message, started)) as chunks:
                async for chunk in chunks:
                    yield chunk
        finally:
            lease.release()

    async def _message(self, work: Work, runner: Runner) -> Generate:
        if work.raw:
            return to_runner(work, work.raw, add_special_tokens=True)
        model = work.model
        async with self._renders:
            renderer = await run_to_end(
                self._choose, model.template, model.chat_template, work.template
            )
        conversation = Conversation(
            work.messages,
            work.tools,
            work.think,
            bos_token=runner.loaded.bos_token,
            eos_token=runner.loaded.eos_token,
        )

        async def render(conversation: Conversation) -> str:
            async with self._renders:
                return await run_to_end(renderer.render, conversation)

        async def fits(text: str) -> bool:
            if not work.request.truncate or len(text.encode()) <= work.room:
                return True  # nothing may be dropped, or no token is shorter than a byte
            tokens = await runner.tokenize(text, renderer.add_special_tokens)
            return len(tokens) <= work.room

        prompt = await fit(render, conversation, fits)
        return to_runner(work, prompt, add_special_tokens=renderer.add_special_tokens)


async def _reply(lease: Lease, message: Generate, started: int) -> Chunks:
    async with aclosing(_items(lease.runner, message)) as items:
        async for item in items:
            if isinstance(item, Finished):
                yield _last_chunk(item, lease.load_ns, started)
            elif item.text:
                yield ChatChunk(content=item.text)


async def _items(runner: Runner, message: Generate) -> AsyncGenerator[Piece | Finished, None]:
    has_begun = False
    try:
        async with aclosing(runner.generate(message)) as items:
            async for item in items:
                has_begun = True
                yield item
    except RunnerDied as error:
        raise RunnerDied(in_mid_reply=has_begun) from error


def _last_chunk(finished: Finished, load_ns: int, started: int) -> ChatChunk:
    timings = Timings(
        total_ns=time.monotonic_ns() - started,
        load_ns=load_ns,
        num_prompt_tokens=finished.num_prompt_tokens,
        prompt_ns=finished.prompt_ns,
        num_tokens=finished.num_tokens,
        generation_ns=finished.generation_ns,
    )
    return ChatChunk(
        done_reason=DoneReason(finished.reason),
        timings=timings,
        context=tuple(finished.context),
    )
