"""/v1/messages and /v1/messages/count_tokens: Anthropic's messages, whole or as events.

Keys and the headers that name versions are not looked at.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from aiohttp import web

from olla.api.anthropic_replies import (
    ID_PREFIX,
    Json,
    MessageEvents,
    MessageHead,
    count_to_json,
    message_to_json,
)
from olla.api.anthropic_requests import MessagesRequest, count_from_json, messages_from_json
from olla.api.sse import event
from olla.api.turns import estimate_tokens
from olla.requests import ChatChunk, ChatRequest
from olla.server.references import local_text
from olla.server.services import SERVICES
from olla.server.streaming import json_reply, read_json, send_sse

PING = event({"type": "ping"}, "ping")


async def messages(request: web.Request) -> web.StreamResponse:
    """POST /v1/messages: the next message of a conversation."""
    asked = await read_json(request, messages_from_json)
    chunks = request.app[SERVICES].inference.chat(_local(asked.chat))
    head = _head(asked)
    async with aclosing(chunks):
        if not asked.chat.stream:
            return json_reply(message_to_json([chunk async for chunk in chunks], head))
        num_tokens = estimate_tokens(asked.chat.messages)
        async with aclosing(_events(MessageEvents(head), chunks, num_tokens)) as events:
            return await send_sse(request, events, ping=PING)


async def count_tokens(request: web.Request) -> web.Response:
    """POST /v1/messages/count_tokens: how long the prompt of a conversation is."""
    asked = await read_json(request, count_from_json)
    num_tokens = await request.app[SERVICES].inference.count_tokens(_local(asked))
    return json_reply(count_to_json(num_tokens))


def _local(chat: ChatRequest) -> ChatRequest:
    return replace(chat, model=local_text(chat.model))


def _head(asked: MessagesRequest) -> MessageHead:
    return MessageHead(
        id=f"{ID_PREFIX}{secrets.token_hex(12)}",
        model=asked.chat.model,
        stop_sequences=asked.chat.options.stop or (),
        shows_thinking=asked.shows_thinking,
    )


async def _events(
    message: MessageEvents, chunks: AsyncGenerator[ChatChunk, None], num_tokens: int
) -> AsyncGenerator[bytes, None]:
    """It starts with the first chunk: until then an error has its status."""
    has_begun = False
    async for chunk in chunks:
        if not has_begun:
            yield _named(message.start(num_tokens))
            has_begun = True
        for value in message.push(chunk):
            yield _named(value)
    for value in message.finish():
        yield _named(value)


def _named(value: Json) -> bytes:
    return event(value, value["type"])
