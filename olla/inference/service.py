"""Inference: the one path that chat and generate share: resolve, check, load, prompt, run.

Knows no JSON, no HTTP and no tensors. Where checks can fail, the first that does answers (spec/
api.md sections 4.2 and 5.2). A reply that is closed early frees the engine at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeVar

from olla.inference.adapters import choose_adapters
from olla.inference.prompt import Fitted, Prompt, fit, prompt_of
from olla.inference.reply import Asked, chunks_of
from olla.inference.resolve import resolve
from olla.inference.work import Work, chat_work, generate_work, to_runner, tool_choice
from olla.parsers.choose import VERBATIM, Choice, ReplyContext, read_go_tags
from olla.parsers.choose import choose as choose_parser
from olla.registry.model import Model
from olla.registry.store import ModelStore
from olla.registry.threads import run_to_end
from olla.renderers.base import Renderer, choose
from olla.renderers.conversation import Conversation
from olla.requests import (
    ChatChunk,
    ChatRequest,
    DoneReason,
    GenerateRequest,
    InferenceRequest,
)
from olla.runner.pool import RunnerPool
from olla.runner.process import Runner
from olla.runner.protocol import Generate
from olla.settings import Settings

MAX_TEMPLATES = 16
MAX_RENDERS = 2
"""At once: a slow template may hold a thread for a second, and others need theirs meanwhile."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What goes to the runner, how its reply is read, and what was left out of the prompt."""

    message: Generate
    choice: Choice = VERBATIM
    num_dropped_tokens: int = 0


Chunks = AsyncGenerator[ChatChunk, None]
_Request = TypeVar("_Request", bound=InferenceRequest)


class Inference:
    def __init__(self, store: ModelStore, pool: RunnerPool, settings: Settings) -> None:
        self._store = store
        self._pool = pool
        self._settings = settings
        self._go_tags = lru_cache(MAX_TEMPLATES)(read_go_tags)
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
        is_empty = not (request.prompt or request.tokens or request.images)
        return self._answer(request, generate_work, is_empty=is_empty)

    async def count_tokens(self, request: ChatRequest) -> int:
        """How many tokens the prompt of a conversation has, none left out. Raises as `chat`."""
        model = await asyncio.to_thread(resolve, self._store, request.model)
        work = chat_work(model, request, self._settings)
        lease = await self._pool.acquire(work.runnable, request.keep_alive_s)
        try:
            message = (await self._plan(work, lease.runner)).message
            prompt = Prompt(message.prompt, tuple(message.images))
            return await _count(lease.runner, prompt, message.add_special_tokens)
        finally:
            lease.release()

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
        if request.adapters is not None:
            chosen = await asyncio.to_thread(choose_adapters, self._store, model, request.adapters)
            work = replace(work, adapters=chosen)
        lease = await self._pool.acquire(work.runnable, work.request.keep_alive_s)
        try:
            if work.is_load:
                yield ChatChunk(done_reason=DoneReason.LOAD)
                return
            plan = await self._plan(work, lease.runner)
            if work.request.debug_render_only:
                message = plan.message
                yield ChatChunk(rendered_prompt=message.prompt, num_images=len(message.images))
                return
            asked = Asked(
                started,
                lease.load_ns,
                plan.num_dropped_tokens,
                calls_come_last=isinstance(work.request, GenerateRequest),
            )
            reply = chunks_of(lease.runner, plan.message, plan.choice.parser, asked)
            async with lease.turn(), aclosing(reply) as chunks:
                async for chunk in chunks:
                    yield chunk
        finally:
            lease.release()

    async def _plan(self, work: Work, runner: Runner) -> Plan:
        if work.is_raw:
            raw = Prompt(work.raw, work.raw_images)
            return Plan(to_runner(work, raw, add_special_tokens=True))
        model = work.model
        async with self._renders:
            renderer = await run_to_end(self._choose, model.prompt_template, work.template)
        fitted = await self._fit(work, renderer, runner)
        template = work.template or model.prompt_template
        context = ReplyContext(
            fitted.prompt.text, template, work.tools, work.think, tool_choice(work)
        )
        choice = choose_parser(model, context, self._go_tags(template))
        message = to_runner(
            work, fitted.prompt, choice, add_special_tokens=renderer.add_special_tokens
        )
        return Plan(message, choice, fitted.num_dropped_tokens)

    async def _fit(self, work: Work, renderer: Renderer, runner: Runner) -> Fitted:
        conversation = Conversation(
            work.messages,
            work.shown_tools,
            work.think,
            work.suffix,
            bos_token=runner.loaded.bos_token,
            eos_token=runner.loaded.eos_token,
        )

        async def render(conversation: Conversation) -> str:
            async with self._renders:
                return await run_to_end(renderer.render, conversation)

        async def count(prompt: Prompt) -> int:
            return await _count(runner, prompt, renderer.add_special_tokens)

        if not work.request.truncate:
            return Fitted(await prompt_of(render, conversation))
        return await fit(render, conversation, count, work.room)


async def _count(runner: Runner, prompt: Prompt, add_special_tokens: bool) -> int:
    return len(await runner.tokenize(prompt.text, add_special_tokens, prompt.images))
