"""The choices of a reply, run side by side: as many replies to one prompt as were asked for.

Every choice has a number, and its chunks come under it, in whatever order they are there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from typing import TypeVar

from olla.requests import ChatChunk

Chunks = AsyncGenerator[ChatChunk, None]
Choices = AsyncGenerator[tuple[int, ChatChunk], None]
_Request = TypeVar("_Request")


def all_choices(ask: Callable[[_Request], Chunks], groups: Sequence[Sequence[_Request]]) -> Choices:
    """The replies to `groups` of requests; those of one group have their prompt in common."""
    streams: list[Choices] = []
    num_before = 0
    for group in groups:
        numbered = [_numbered(number, ask(item)) for number, item in enumerate(group, num_before)]
        streams.append(_siblings(numbered))
        num_before += len(group)
    return _interleave(streams)


async def _siblings(streams: Sequence[Choices]) -> Choices:
    """The others begin when the first has: by then the cache has the prompt for them."""
    async with AsyncExitStack() as stack:
        for stream in streams:
            await stack.enter_async_context(aclosing(stream))
        yield await anext(streams[0])
        async with aclosing(_interleave(streams)) as items:
            async for item in items:
                yield item


async def _numbered(number: int, chunks: Chunks) -> Choices:
    async with aclosing(chunks):
        async for chunk in chunks:
            yield number, chunk


async def _interleave(streams: Sequence[Choices]) -> Choices:
    """The items of all streams as they come; the first error ends them all."""
    if len(streams) == 1:
        async for item in streams[0]:
            yield item
        return
    arrived: asyncio.Queue[tuple[int, ChatChunk] | asyncio.Task[None]] = asyncio.Queue()
    tasks = {asyncio.create_task(_pass_on(stream, arrived.put_nowait)) for stream in streams}
    for task in tasks:
        task.add_done_callback(arrived.put_nowait)
    num_running = len(tasks)
    try:
        while num_running:
            news = await arrived.get()
            if isinstance(news, asyncio.Task):
                news.result()
                num_running -= 1
            else:
                yield news
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)  # no error is left unlooked at


async def _pass_on(stream: Choices, put: Callable[[tuple[int, ChatChunk]], None]) -> None:
    async with aclosing(stream):
        async for item in stream:
            put(item)
