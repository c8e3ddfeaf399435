"""Choices run side by side, end together, and leave nothing behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from olla.errors import BadInput
from olla.requests import ChatChunk
from olla.server.choices import all_choices
from tests.server.conftest import until


class Replies:
    """What is asked for by name: each waits for its `go`, then gives its name, twice."""

    def __init__(self, *names: str, error: str = "") -> None:
        self.go = {name: asyncio.Event() for name in names}
        self.asked: list[str] = []
        self.closed: list[str] = []
        self._error = error

    async def ask(self, name: str) -> AsyncGenerator[ChatChunk, None]:
        self.asked.append(name)
        try:
            yield ChatChunk(name)
            await self.go[name].wait()
            if name in self._error:
                raise BadInput(name)
            yield ChatChunk(name)
        finally:
            self.closed.append(name)

    def let_all_go(self) -> None:
        for event in self.go.values():
            event.set()


async def test_one_choice_is_itself() -> None:
    replies = Replies("a")
    replies.let_all_go()

    found = [item async for item in all_choices(replies.ask, [["a"]])]

    assert found == [(0, ChatChunk("a"))] * 2


async def test_choices_are_numbered_through_all_groups() -> None:
    replies = Replies("a", "b", "c", "d")
    replies.let_all_go()

    found = [item async for item in all_choices(replies.ask, [["a", "b"], ["c", "d"]])]

    assert sorted((index, chunk.content) for index, chunk in found) == [
        (index, name) for index, name in enumerate("abcd") for _ in range(2)
    ]


async def test_choices_come_as_they_are_there() -> None:
    replies = Replies("a", "b")
    async with aclosing(all_choices(replies.ask, [["a", "b"]])) as choices:
        first = [await anext(choices) for _ in range(2)]
        replies.go["b"].set()
        then = await anext(choices)
        replies.go["a"].set()
        last = await anext(choices)

    assert [index for index, _ in (*first, then, last)] == [0, 1, 1, 0]


async def test_the_others_wait_until_the_first_has_begun() -> None:
    replies = Replies("a", "b", "c")
    async with aclosing(all_choices(replies.ask, [["a", "b", "c"]])) as choices:
        await anext(choices)
        at_first = [*replies.asked]
        await anext(choices)

    assert at_first == ["a"]
    assert replies.asked == ["a", "b", "c"]


async def test_an_error_ends_them_all() -> None:
    replies = Replies("a", "b", "c", error="b")
    replies.go["b"].set()

    with pytest.raises(BadInput, match="b"):
        _ = [item async for item in all_choices(replies.ask, [["a", "b"], ["c"]])]

    assert sorted(replies.closed) == ["a", "b", "c"]


async def test_errors_that_come_together_are_one(caplog: pytest.LogCaptureFixture) -> None:
    replies = Replies("a", "b", "c", error="abc")
    replies.let_all_go()

    with pytest.raises(BadInput):
        _ = [item async for item in all_choices(replies.ask, [["a"], ["b"], ["c"]])]

    assert not caplog.records


@pytest.mark.parametrize("num_items", range(1, 5))
async def test_leaving_closes_them_all(num_items: int) -> None:
    replies = Replies("a", "b", "c", "d")
    async with aclosing(all_choices(replies.ask, [["a", "b"], ["c", "d"]])) as choices:
        for _ in range(num_items):
            await anext(choices)

    assert sorted(replies.closed) == sorted(replies.asked)
    assert len(asyncio.all_tasks()) == 1


async def test_being_cancelled_closes_them_all() -> None:
    replies = Replies("a", "b", "c")

    async def consume() -> None:
        async with aclosing(all_choices(replies.ask, [["a", "b"], ["c"]])) as choices:
            async for _ in choices:
                pass

    task = asyncio.create_task(consume())
    await until(lambda: len(replies.asked) == 3)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert sorted(replies.closed) == ["a", "b", "c"]
