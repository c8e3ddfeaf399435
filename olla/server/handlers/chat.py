"""/api/chat and /api/generate: a reply, as a stream or whole."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace

from aiohttp import web

from olla.api.ollama_replies import Json, chat_to_json, generate_to_json, join_chunks
from olla.api.ollama_requests import chat_from_json, generate_from_json
from olla.errors import BadInput, ModelNotFound
from olla.requests import ChatChunk, DoneReason
from olla.server.references import local_text
from olla.server.services import SERVICES
from olla.server.streaming import json_reply, read_json, send_ndjson

Chunks = AsyncGenerator[ChatChunk, None]


async def chat(request: web.Request) -> web.StreamResponse:
    """POST /api/chat: the next message of a conversation."""
    asked = await read_json(request, chat_from_json)
    if not asked.model:
        raise BadInput("model is required")
    local = replace(asked, model=local_text(asked.model))
    chunks = request.app[SERVICES].inference.chat(local)
    return await _reply(request, chunks, lambda c: chat_to_json(c, asked.model), asked.stream)


async def generate(request: web.Request) -> web.StreamResponse:
    """POST /api/generate: what follows a prompt."""
    asked = await read_json(request, generate_from_json)
    if not asked.model:
        raise ModelNotFound(asked.model)
    local = replace(asked, model=local_text(asked.model))
    chunks = request.app[SERVICES].inference.generate(local)
    return await _reply(request, chunks, lambda c: generate_to_json(c, asked.model), asked.stream)


async def _reply(
    request: web.Request, chunks: Chunks, to_json: Callable[[ChatChunk], Json], stream: bool
) -> web.StreamResponse:
    async with aclosing(chunks):
        if not stream:
            return json_reply(to_json(join_chunks([chunk async for chunk in chunks])))
        first = await anext(chunks)
        if _stands_alone(first):
            return json_reply(to_json(first))
        rest = (to_json(chunk) async for chunk in chunks)
        return await send_ndjson(request, to_json(first), rest)


def _stands_alone(chunk: ChatChunk) -> bool:
    """Loading, unloading and rendering are answered by one object, streaming or not."""
    loaded = chunk.done_reason in {DoneReason.LOAD, DoneReason.UNLOAD}
    return loaded or chunk.rendered_prompt is not None
