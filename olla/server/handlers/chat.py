"""/api/chat and /api/generate: a reply, as a stream or whole."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace

from aiohttp import web

from olla.api.ollama_replies import Json, chat_to_json, generate_to_json, join_chunks
from olla.api.ollama_requests import chat_from_json, generate_from_json
from olla.errors import BadInput, ModelNotFound
from olla.requests import ChatChunk, DoneReason, InferenceRequest
from olla.server.references import local_text
from olla.server.services import SERVICES
from olla.server.streaming import json_reply, read_json, send_ndjson

Chunks = AsyncGenerator[ChatChunk, None]
ToJson = Callable[[ChatChunk, str, int], Json]


async def chat(request: web.Request) -> web.StreamResponse:
    """POST /api/chat: the next message of a conversation."""
    asked = await read_json(request, chat_from_json)
    if not asked.model:
        raise BadInput("model is required")
    local = replace(asked, model=local_text(asked.model))
    chunks = request.app[SERVICES].inference.chat(local)
    return await _reply(request, chunks, chat_to_json, asked)


async def generate(request: web.Request) -> web.StreamResponse:
    """POST /api/generate: what follows a prompt."""
    asked = await read_json(request, generate_from_json)
    if not asked.model:
        raise ModelNotFound(asked.model)
    local = replace(asked, model=local_text(asked.model))
    chunks = request.app[SERVICES].inference.generate(local)
    return await _reply(request, chunks, generate_to_json, asked)


async def _reply(
    request: web.Request, chunks: Chunks, to_json: ToJson, asked: InferenceRequest
) -> web.StreamResponse:
    async with aclosing(chunks):
        if not asked.stream:
            whole = join_chunks([chunk async for chunk in chunks])
            return json_reply(to_json(whole, asked.model, 0))
        first = await anext(chunks)
        line = to_json(first, asked.model, 0)
        if _stands_alone(first):
            return json_reply(line)
        rest = _lines(chunks, to_json, asked.model, len(first.tool_calls))
        return await send_ndjson(request, line, rest)


async def _lines(
    chunks: Chunks, to_json: ToJson, model: str, num_calls: int
) -> AsyncGenerator[Json, None]:
    async for chunk in chunks:
        yield to_json(chunk, model, num_calls)
        num_calls += len(chunk.tool_calls)


def _stands_alone(chunk: ChatChunk) -> bool:
    """Loading, unloading and rendering are answered by one object, streaming or not."""
    loaded = chunk.done_reason in {DoneReason.LOAD, DoneReason.UNLOAD}
    return loaded or chunk.rendered_prompt is not None
