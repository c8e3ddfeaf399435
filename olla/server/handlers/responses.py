"""/v1/responses: OpenAI's responses, whole or as events, and those that are kept."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from functools import partial

from aiohttp import web

from olla.api.responses_replies import (
    ID_PREFIX,
    Json,
    ResponseEvents,
    ResponseHead,
    response_to_json,
)
from olla.api.responses_requests import ResponsesRequest, responses_from_json
from olla.api.sse import event
from olla.errors import OllaError
from olla.requests import ChatChunk
from olla.server.conversations import Conversations
from olla.server.references import local_text
from olla.server.services import SERVICES
from olla.server.streaming import json_reply, read_json, send_sse

Chunks = AsyncGenerator[ChatChunk, None]

_log = logging.getLogger(__name__)


async def create(request: web.Request) -> web.StreamResponse:
    """POST /v1/responses: the next response of a conversation."""
    services = request.app[SERVICES]
    kept = services.conversations
    asked = await read_json(request, partial(responses_from_json, recall=kept.items))
    local = replace(asked.chat, model=local_text(asked.chat.model))
    head = _head(asked)
    async with aclosing(services.inference.chat(local)) as chunks:
        if not asked.chat.stream:
            gathered = [chunk async for chunk in chunks]
            response = response_to_json(gathered, head, int(time.time()))
            await _keep(kept, asked, response)
            return json_reply(response)
        async with aclosing(_events(ResponseEvents(head), chunks, asked, kept)) as events:
            return await send_sse(request, events)


async def retrieve(request: web.Request) -> web.Response:
    """GET /v1/responses/{id}: a response that is kept, as it was."""
    body = request.app[SERVICES].conversations.response(request.match_info["id"])
    return web.Response(body=body, content_type="application/json", charset="utf-8")


async def delete(request: web.Request) -> web.Response:
    """DELETE /v1/responses/{id}: keep it no longer."""
    response_id = request.match_info["id"]
    request.app[SERVICES].conversations.delete(response_id)
    return json_reply({"id": response_id, "object": "response", "deleted": True})


def _head(asked: ResponsesRequest) -> ResponseHead:
    return ResponseHead(
        id=f"{ID_PREFIX}{secrets.token_hex(12)}",
        model=asked.chat.model,
        created_at=int(time.time()),
        echo=asked.echo,
        namespaces=asked.namespaces,
    )


async def _events(
    response: ResponseEvents, chunks: Chunks, asked: ResponsesRequest, kept: Conversations
) -> AsyncGenerator[bytes, None]:
    """It starts with the first chunk: until then an error has its status."""
    has_begun = False
    try:
        async for chunk in chunks:
            if not has_begun:
                for value in response.start():
                    yield _named(value)
                has_begun = True
            for value in response.push(chunk):
                yield _named(value)
    except OllaError as error:
        if not has_begun:
            raise
        _log.error("response failed in mid-stream error=%r", str(error), exc_info=error.__cause__)
        yield _named(response.fail(str(error)))
        return
    for value in response.finish(int(time.time())):
        if "response" in value:
            await _keep(kept, asked, value["response"])
        yield _named(value)


async def _keep(kept: Conversations, asked: ResponsesRequest, response: Json) -> None:
    if asked.store:
        items = (*asked.items, *response["output"])
        await asyncio.to_thread(kept.put, response, items)


def _named(value: Json) -> bytes:
    return event(value, value["type"])
