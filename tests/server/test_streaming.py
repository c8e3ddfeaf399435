"""Blocking work beside the loop: it is waited for, then given up cleanly; what streams carry."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from olla.errors import BadInput, ModelNotFound
from olla.registry.threads import run_to_end
from olla.requests import ChatChunk
from olla.server.errors import ErrorGuard
from olla.server.streaming import read_json, send_sse, steps_in_thread
from tests.server.conftest import (
    Client,
    FakeInference,
    StartClient,
    events_of,
    lines_of,
    open_connection,
    openai_error_of,
)
from tests.server.test_compression import PACKED, TEXT


class Steps:
    """A blocking generator that notes its end; its second step waits to be let go."""

    def __init__(self, error: Exception | None = None) -> None:
        self.is_waiting = threading.Event()
        self.go_on = threading.Event()
        self.is_closed = False
        self._error = error

    def run(self) -> Generator[int, None, None]:
        try:
            yield 1
            self.is_waiting.set()
            self.go_on.wait(10)
            if self._error:
                raise self._error
            yield 2
            yield 3
        finally:
            self.is_closed = True


async def test_steps_come_in_order() -> None:
    steps = Steps()
    steps.go_on.set()

    assert [step async for step in steps_in_thread(steps.run())] == [1, 2, 3]
    assert steps.is_closed


async def test_an_error_of_a_step_comes_through() -> None:
    steps = Steps(BadInput("no"))
    steps.go_on.set()

    with pytest.raises(BadInput, match="no"):
        _ = [step async for step in steps_in_thread(steps.run())]


async def test_steps_left_early_are_closed() -> None:
    steps = Steps()

    async with aclosing(steps_in_thread(steps.run())) as running:
        assert await anext(running) == 1

    assert steps.is_closed


@pytest.mark.parametrize("times", [1, 2])
async def test_a_cancelled_step_is_waited_for_and_closed(times: int) -> None:
    steps = Steps()

    async def consume() -> None:
        async with aclosing(steps_in_thread(steps.run())) as running:
            async for _ in running:
                pass

    task = asyncio.create_task(consume())
    await asyncio.to_thread(steps.is_waiting.wait)
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0)
    assert not task.done()

    steps.go_on.set()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert steps.is_closed


async def test_an_error_after_the_cancellation_is_not_heard() -> None:
    steps = Steps(BadInput("no"))
    running = steps.run()
    next(running)
    task = asyncio.create_task(run_to_end(next, running, None))
    await asyncio.to_thread(steps.is_waiting.wait)
    task.cancel()

    steps.go_on.set()

    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_body_is_read_beside_the_loop(aiohttp_client: StartClient) -> None:
    has_answered = threading.Event()

    def from_json(body: bytes) -> bytes:
        assert has_answered.wait(5)
        return body

    async def slow(request: web.Request) -> web.Response:
        return web.Response(body=await read_json(request, from_json))

    async def quick(request: web.Request) -> web.Response:
        return web.Response()

    app = web.Application()
    app.add_routes([web.post("/", slow), web.get("/", quick)])
    client = await aiohttp_client(app)
    posted = asyncio.create_task(client.post("/", data=b"{}"))
    await client.get("/")

    has_answered.set()

    assert await (await posted).read() == b"{}"


async def test_a_connection_that_breaks_elsewhere_is_an_error_of_the_stream(
    client: Client, inference: FakeInference
) -> None:
    inference.script = [ChatChunk(content="a"), ConnectionResetError("of something else")]

    response = await client.post("/api/chat", json={"model": "m"})

    assert (await lines_of(response))[-1] == {"error": "internal server error"}


class Events:
    """A handler that streams what a test puts in, behind the real guard, at `path`."""

    def __init__(self, path: str = "/v1/events", ping_every_s: float = 60) -> None:
        self.queue: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()
        self.is_closed = asyncio.Event()
        self._path = path
        self._ping_every_s = ping_every_s

    async def start(self, start_client: StartClient) -> Client:
        app = web.Application(middlewares=[ErrorGuard().middleware])
        app.add_routes([web.get(self._path, self._handle)])
        server = TestServer(app)
        await server.start_server()
        return await start_client(server)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        async with aclosing(self._events()) as events:
            return await send_sse(
                request, events, ping=b": ping\n\n", ping_every_s=self._ping_every_s
            )

    async def _events(self) -> AsyncGenerator[bytes, None]:
        try:
            while (item := await self.queue.get()) is not None:
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            self.is_closed.set()


async def test_events_are_sent_as_they_come(aiohttp_client: StartClient) -> None:
    events = Events()
    client = await events.start(aiohttp_client)
    events.queue.put_nowait(b"data: 1\n\n")
    response = await client.get("/v1/events")
    assert await response.content.readuntil(b"\n\n") == b"data: 1\n\n"

    events.queue.put_nowait(b"data: 2\n\n")
    events.queue.put_nowait(None)

    assert await events_of(response) == ["data: 2"]


async def test_a_stream_of_nothing_is_empty(aiohttp_client: StartClient) -> None:
    events = Events()
    client = await events.start(aiohttp_client)
    events.queue.put_nowait(None)

    response = await client.get("/v1/events")

    assert (response.status, await response.read()) == (200, b"")


async def test_pings_fill_the_silence_before_and_amid_events(aiohttp_client: StartClient) -> None:
    events = Events(ping_every_s=0.01)
    client = await events.start(aiohttp_client)

    response = await client.get("/v1/events")

    assert await response.content.readuntil(b"\n\n") == b": ping\n\n"
    events.queue.put_nowait(b"data: 1\n\n")
    assert b"data: 1\n\n" in await response.content.readuntil(b"1\n\n")
    assert await response.content.readuntil(b"\n\n") == b": ping\n\n"
    events.queue.put_nowait(None)
    await response.read()


async def test_an_error_before_the_first_event_keeps_its_status(
    aiohttp_client: StartClient,
) -> None:
    events = Events()
    client = await events.start(aiohttp_client)
    events.queue.put_nowait(ModelNotFound("m"))

    answer = await openai_error_of(await client.get("/v1/events"))

    assert answer == (404, "not_found_error", "model 'm' not found")


@pytest.mark.parametrize(
    ("path", "start"),
    [("/v1/events", 'data: {"error":{'), ("/v1/messages", "event: error\ndata: {")],
)
@pytest.mark.parametrize(
    ("error", "text"), [(BadInput("no"), "no"), (KeyError(), "internal server error")]
)
async def test_a_later_error_is_the_last_event(
    aiohttp_client: StartClient, path: str, start: str, error: Exception, text: str
) -> None:
    events = Events(path)
    client = await events.start(aiohttp_client)
    events.queue.put_nowait(b"data: 1\n\n")
    events.queue.put_nowait(error)

    first, last = await events_of(await client.get(path))

    assert first == "data: 1"
    assert last.startswith(start) and f'"message":"{text}"' in last


async def test_a_crash_is_told_in_the_dialect_of_the_route(aiohttp_client: StartClient) -> None:
    events = Events()
    client = await events.start(aiohttp_client)
    events.queue.put_nowait(KeyError())

    answer = await openai_error_of(await client.get("/v1/events"))

    assert answer == (500, "api_error", "internal server error")


@pytest.mark.parametrize("has_begun", [False, True])
async def test_leaving_closes_the_events(aiohttp_client: StartClient, has_begun: bool) -> None:
    events = Events(ping_every_s=0.01 if has_begun else 60)
    client = await events.start(aiohttp_client)
    _, writer = await open_connection(client)
    writer.write(b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await asyncio.sleep(0.05)

    writer.close()

    await asyncio.wait_for(events.is_closed.wait(), 5)


@pytest.mark.parametrize(("path", "is_read"), [("/v1/x", True), ("/api/x", False)])
async def test_zstd_is_unpacked_on_the_v1_routes(
    aiohttp_client: StartClient, path: str, is_read: bool
) -> None:
    async def echo(request: web.Request) -> web.Response:
        return web.Response(body=await read_json(request, lambda body: body))

    app = web.Application()
    app.add_routes([web.post(path, echo)])
    server = TestServer(app)
    await server.start_server(auto_decompress=False)
    client = await aiohttp_client(server)

    response = await client.post(path, data=PACKED, headers={"Content-Encoding": "zstd"})

    assert await response.read() == (TEXT if is_read else PACKED)
