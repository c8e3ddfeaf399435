"""OpenAI's /v1/chat/completions, /v1/completions and /v1/models."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import TypeVar

from aiohttp import web

from olla.api.openai_chat import chat_from_json
from olla.api.openai_chat_replies import ChatReply
from olla.api.openai_completion_replies import CompletionReply
from olla.api.openai_completions import completion_from_json
from olla.api.openai_fields import Asked
from olla.api.openai_models import model_to_json, models_to_json
from olla.api.openai_replies import Reply
from olla.errors import BadInput, ModelNotFound
from olla.requests import ChatChunk, InferenceRequest
from olla.server.choices import Choices, Chunks, all_choices
from olla.server.handlers.models import summary_of
from olla.server.references import local_name, local_text
from olla.server.services import SERVICES
from olla.server.streaming import json_reply, read_json, send_sse

_Request = TypeVar("_Request", bound=InferenceRequest)


async def chat(request: web.Request) -> web.StreamResponse:
    """POST /v1/chat/completions: the next message of a conversation."""
    asked = await read_json(request, chat_from_json)
    if not asked.model:
        raise BadInput("model is required")
    return await _answer(request, asked, request.app[SERVICES].inference.chat, ChatReply)


async def completion(request: web.Request) -> web.StreamResponse:
    """POST /v1/completions: what follows a prompt, or each of several."""
    asked = await read_json(request, completion_from_json)
    if not asked.model:
        raise ModelNotFound(asked.model)
    return await _answer(request, asked, request.app[SERVICES].inference.generate, CompletionReply)


async def list_models(request: web.Request) -> web.Response:
    """GET /v1/models"""
    stored = await asyncio.to_thread(request.app[SERVICES].store.list)
    return json_reply(await asyncio.to_thread(lambda: models_to_json(map(summary_of, stored))))


async def retrieve_model(request: web.Request) -> web.Response:
    """GET /v1/models/:model"""
    text = request.match_info["model"]
    name = local_name(text, details=True)
    model = await asyncio.to_thread(request.app[SERVICES].store.resolve, name)
    return json_reply(model_to_json(await asyncio.to_thread(summary_of, model), text))


async def _answer(
    request: web.Request,
    asked: Asked[_Request],
    ask: Callable[[_Request], Chunks],
    reply_type: type[Reply],
) -> web.StreamResponse:
    reply = reply_type(asked.model, asked.num_choices, asked.include_usage)
    local = asked.of(local_text(asked.model))
    async with aclosing(all_choices(ask, local.groups)) as choices:
        if asked.stream:
            return await send_sse(request, _events(choices, reply))
        chunks: defaultdict[int, list[ChatChunk]] = defaultdict(list)
        async for index, chunk in choices:
            chunks[index].append(chunk)
        return json_reply(reply.whole(chunks))


async def _events(choices: Choices, reply: Reply) -> AsyncIterator[bytes]:
    async for index, chunk in choices:
        for event in reply.push(index, chunk):
            yield event
    for event in reply.finish():
        yield event
