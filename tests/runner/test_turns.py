"""Turns: how many at once, and whose turn is next."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from olla.caller import CALLER, Caller
from olla.runner.turns import Turns


class Crowd:
    """Requests that take their turns; `served` tells in which order they got them."""

    def __init__(self, capacity: int) -> None:
        self.turns = Turns(capacity)
        self.served: list[str] = []
        self.most = 0
        self._num_running = 0
        self._may_end = asyncio.Semaphore(0)

    async def ask(self, request: str) -> None:
        CALLER.set(Caller(request, client=request[0]))
        async with self.turns.take():
            self.served.append(request)
            self._num_running += 1
            self.most = max(self.most, self._num_running)
            try:
                await self._may_end.acquire()
            finally:
                self._num_running -= 1

    async def come(self, *requests: str) -> list[asyncio.Task[None]]:
        tasks = [asyncio.create_task(self.ask(request)) for request in requests]
        await self.settled()
        return tasks

    async def end(self, count: int = 1) -> None:
        for _ in range(count):
            self._may_end.release()
            await self.settled()

    def waiting(self) -> list[str]:
        return [caller.request_id for caller in self.turns.waiting()]

    @staticmethod
    async def settled() -> None:
        for _ in range(10):
            await asyncio.sleep(0)


async def test_no_more_run_than_may() -> None:
    crowd = Crowd(2)
    tasks = await crowd.come("a1", "a2", "a3", "b1")

    assert crowd.served == ["a1", "a2"]
    await crowd.end(4)
    await asyncio.gather(*tasks)
    assert crowd.most == 2


@pytest.mark.parametrize(
    ("requests", "served"),
    [
        (["a1", "a2", "a3", "b1", "c1"], ["a1", "a2", "b1", "c1", "a3"]),
        (["a1", "b1", "b2", "b3", "c1", "c2"], ["a1", "b1", "c1", "b2", "c2", "b3"]),
    ],
)
async def test_clients_take_turns(requests: Sequence[str], served: Sequence[str]) -> None:
    crowd = Crowd(1)
    tasks = await crowd.come(*requests)

    assert crowd.waiting() == list(served[1:])
    await crowd.end(len(requests))
    await asyncio.gather(*tasks)
    assert crowd.served == served


async def test_one_who_leaves_is_passed_over() -> None:
    crowd = Crowd(1)
    first, second, third = await crowd.come("a1", "a2", "b1")
    second.cancel()
    await crowd.settled()

    assert crowd.waiting() == ["b1"]
    await crowd.end(2)
    await asyncio.gather(first, third)
    assert crowd.served == ["a1", "b1"]


async def test_a_turn_given_to_one_who_leaves_in_that_moment_is_not_lost() -> None:
    crowd = Crowd(1)
    first, second, third = await crowd.come("a1", "b1", "c1")
    first.cancel()
    await asyncio.sleep(0)  # the first's end has given the second its turn
    second.cancel()
    await crowd.settled()

    assert crowd.served[-1] == "c1"
    await crowd.end()
    await third
    assert crowd.waiting() == []
