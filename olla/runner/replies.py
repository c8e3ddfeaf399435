"""What a runner writes, on its way to those who asked: read in one go, kept until it is taken.

Every piece of every reply comes by here while the runner computes the next, maybe on the same CPUs,
so there is no task and no queue of asyncio's in between.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

import msgspec

from olla.runner.protocol import FromRunner, ReplyDecoder


class Mailbox:
    """What came for one request, for the one task that takes it. It has no bound."""

    __slots__ = ("_items", "_waiter")

    def __init__(self) -> None:
        self._items: deque[FromRunner | None] = deque()
        self._waiter: asyncio.Future[None] | None = None

    def put(self, item: FromRunner | None) -> None:
        """Add a reply; None says that no more come."""
        self._items.append(item)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def take(self) -> FromRunner | None:
        """The oldest, waiting for one if need be."""
        if not self._items:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self._items.popleft()


class ReplyReader(asyncio.Protocol):
    """The reading end of the child's stdout; `end` is done when that ends."""

    def __init__(
        self, on_reply: Callable[[FromRunner], None], on_nonsense: Callable[[], None]
    ) -> None:
        self.end = asyncio.get_running_loop().create_future()
        self._transport: asyncio.BaseTransport | None = None
        self._decoder = ReplyDecoder()
        self._on_reply, self._on_nonsense = on_reply, on_nonsense

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            for reply in self._decoder.push(data):
                self._on_reply(reply)
        except (ValueError, msgspec.DecodeError):
            self._on_nonsense()
            assert self._transport is not None
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.end.done():  # cancelled, when the daemon ends without closing us
            self.end.set_result(None)
