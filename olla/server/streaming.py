"""Replies: one JSON object, or a stream (NDJSON, SSE); bodies; blocking work beside the loop.

Knows no dialect. When the client leaves, aiohttp cancels the handler; every generator here is
closed on the way out, which cancels what it stands for. What runs in a thread cannot be
cancelled: it is waited for, so that nothing it uses is taken from under it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator
from typing import Any, TypeVar

from aiohttp import hdrs, web

from olla.api.ollama_replies import encode
from olla.errors import BadInput, BodyTooLarge, RequestTimeout
from olla.registry.threads import run_to_end
from olla.server.compression import unpack
from olla.server.dialects import OLLAMA, dialect_of

MAX_BODY_BYTES = 256 * 2**20
"""As much as a runner takes in one message."""

NDJSON = "application/x-ndjson"
SSE_HEADERS = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
SSE_COMMENT = b": still there\n\n"
PING_EVERY_S = 10.0

STREAM = web.RequestKey("stream", web.StreamResponse)
"""The stream that has begun to answer a request, where the error guard finds it."""

BODY_TIMEOUT = web.AppKey("body_timeout", float)
"""How many seconds a body may take; without it, any number."""

_T = TypeVar("_T")


async def read_json(request: web.Request, from_json: Callable[[bytes], _T]) -> _T:
    """The whole body as `from_json` reads it, beside the loop: a large one takes seconds.

    Raises:
        BodyTooLarge: it is longer than MAX_BODY_BYTES, or says it will be.
        RequestTimeout: it takes longer than the settings allow.
        BadInput: it breaks off or cannot be unpacked, or `from_json` refuses it.
    """
    body = await read_body(request)
    return await asyncio.to_thread(lambda: from_json(_unpacked(request, body)))


def _unpacked(request: web.Request, body: bytes) -> bytes:
    """As Ollama, which reads zstd on its /v1 routes and looks at no other encoding."""
    encoding = request.headers.get(hdrs.CONTENT_ENCODING, "").strip().lower()
    is_packed = encoding == "zstd" and dialect_of(request.path) is not OLLAMA
    return unpack(body) if is_packed else body


async def read_body(request: web.Request) -> bytes:
    """The whole body as it came, which may be asked for again. Raises as `read_json`."""
    if (request.content_length or 0) > MAX_BODY_BYTES:
        raise BodyTooLarge(MAX_BODY_BYTES)
    limit = request.app.get(BODY_TIMEOUT, math.inf)
    try:
        with gone_is_cancelled():
            async with asyncio.timeout(None if math.isinf(limit) else limit):
                return await request.read()
    except TimeoutError as error:
        raise RequestTimeout(
            f"the body did not come within {limit:g} seconds; see OLLA_BODY_TIMEOUT"
        ) from error
    except web.HTTPRequestEntityTooLarge as error:
        raise BodyTooLarge(MAX_BODY_BYTES) from error
    except web.RequestPayloadError as error:
        raise BadInput("unexpected EOF") from error


def json_reply(value: Any, *, status: int = 200, charset: str | None = "utf-8") -> web.Response:
    return web.Response(
        body=encode(value), status=status, content_type="application/json", charset=charset
    )


async def send_ndjson(
    request: web.Request, first: Any, rest: AsyncIterator[Any]
) -> web.StreamResponse:
    """Stream objects, one line each. `first` is there already: an error instead kept its status."""
    response = web.StreamResponse(headers={"Content-Type": NDJSON})
    with gone_is_cancelled():
        await response.prepare(request)
    request[STREAM] = response
    await _write_line(response, first)
    async for value in rest:
        await _write_line(response, value)
    with gone_is_cancelled():
        await response.write_eof()
    return response


async def _write_line(response: web.StreamResponse, value: Any) -> None:
    with gone_is_cancelled():
        await response.write(encode(value) + b"\n")


async def send_sse(
    request: web.Request,
    events: AsyncIterator[bytes],
    *,
    ping: bytes = SSE_COMMENT,
    ping_every_s: float = PING_EVERY_S,
) -> web.StreamResponse:
    """Stream whole events as they come, and `ping` whenever nothing has for a while.

    The headers go with the first of them, so that an error before it keeps its status.
    """
    stream = _EventStream(request)
    pinging = asyncio.create_task(stream.keep_alive(ping, ping_every_s))
    try:
        async for event in events:
            await stream.write(event)
    finally:
        pinging.cancel()
        await asyncio.wait({pinging})
    return await stream.end()


class _EventStream:
    """Writes of two tasks, one after the other, behind headers that the first one sends."""

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self._response = web.StreamResponse(headers=SSE_HEADERS)
        self._lock = asyncio.Lock()
        self._num_writes = 0

    async def write(self, data: bytes) -> None:
        self._num_writes += 1
        async with self._lock:
            with gone_is_cancelled():
                await self._begin()
                await self._response.write(data)

    async def keep_alive(self, ping: bytes, every_s: float) -> None:
        while True:
            before = self._num_writes
            await asyncio.sleep(every_s)
            if self._num_writes == before:
                await self.write(ping)

    async def end(self) -> web.StreamResponse:
        with gone_is_cancelled():
            await self._begin()
            await self._response.write_eof()
        return self._response

    async def _begin(self) -> None:
        if not self._response.prepared:
            await self._response.prepare(self._request)
            self._request[STREAM] = self._response


class gone_is_cancelled:  # noqa: N801 - reads as a function, and is quicker than a generator
    """A connection that breaks under our hands is a client that left, noticed a little earlier."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, where: object) -> None:
        if isinstance(error, ConnectionError):
            raise asyncio.CancelledError from error


async def steps_in_thread(steps: Generator[_T, None, None]) -> AsyncGenerator[_T, None]:
    """Run a blocking generator, each step of it in a thread, and close it at the end."""
    try:
        while (step := await run_to_end(next, steps, None)) is not None:
            yield step
    finally:
        await run_to_end(steps.close)
