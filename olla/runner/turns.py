"""Turns: how many requests a model answers at once, and who is next.

Clients take turns: a client with a hundred requests holds up another's one no longer than a
client with one would. Within a client it is first come, first served.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import zip_longest

from olla.caller import CALLER, Caller


@dataclass(frozen=True, slots=True, eq=False)
class _Place:
    caller: Caller
    turn: asyncio.Future[None]


class Turns:
    def __init__(self, capacity: int) -> None:
        self._num_free = capacity
        self._queues: dict[str, deque[_Place]] = {}
        """The places of each client; the client whose turn is next comes first."""

    @asynccontextmanager
    async def take(self) -> AsyncIterator[None]:
        """A turn of the caller's, after waiting for it."""
        await self._acquire()
        try:
            yield
        finally:
            self._release()

    def waiting(self) -> list[Caller]:
        """Those who wait, in the order in which they will have their turns."""
        rounds = zip_longest(*self._queues.values())
        return [place.caller for places in rounds for place in places if place is not None]

    async def _acquire(self) -> None:
        if self._num_free:
            self._num_free -= 1
            return
        place = _Place(CALLER.get(), asyncio.get_running_loop().create_future())
        self._queues.setdefault(place.caller.client, deque()).append(place)
        try:
            await place.turn
        except asyncio.CancelledError:
            if place.turn.cancelled():
                self._leave(place)
            else:  # it was given a turn in the moment that it left
                self._release()
            raise

    def _leave(self, place: _Place) -> None:
        places = self._queues[place.caller.client]
        places.remove(place)
        if not places:
            del self._queues[place.caller.client]

    def _release(self) -> None:
        """Give the turn to the next who still waits; a client that has had one goes last."""
        for places in tuple(self._queues.values()):
            place = next((place for place in places if not place.turn.done()), None)
            if place is not None:
                self._leave(place)
                self._go_last(place.caller.client)
                place.turn.set_result(None)
                return
        self._num_free += 1

    def _go_last(self, client: str) -> None:
        if client in self._queues:
            self._queues[client] = self._queues.pop(client)
