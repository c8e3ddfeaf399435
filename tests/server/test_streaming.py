"""Blocking work beside the loop: it is waited for, then given up cleanly; what streams carry."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator
from contextlib import aclosing

import pytest
from aiohttp import web

from olla.errors import BadInput
from olla.registry.threads import run_to_end
from olla.requests import ChatChunk
from olla.server.streaming import read_json, steps_in_thread
from tests.server.conftest import Client, FakeInference, StartClient, lines_of


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
