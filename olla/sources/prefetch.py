"""prefetching: the small blobs of a model, several at once, reported in their turn.

A large blob has connections enough of its own and waits for its turn. Invariant: what went wrong
with a blob is raised in its turn, after one round of tries.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

from olla.registry.blobs import BlobStore
from olla.registry.partial import MIN_PART_BYTES
from olla.requests import Progress
from olla.sources.download import REPORT_S, Remote, fetch
from olla.sources.line import Line

Fetch = Callable[[Remote], AsyncGenerator[Progress, None]]
"""`fetch`, its line and store given."""


@asynccontextmanager
async def prefetching(
    line: Line, remotes: Iterable[Remote], blobs: BlobStore
) -> AsyncGenerator[Fetch, None]:
    """For `async with`: small blobs come, several at once, ahead of their turn.

    It gives what fetches a blob in its turn: one that has come is reported, one that failed raises.
    """
    small = (remote for remote in dict.fromkeys(remotes) if remote.size_bytes <= MIN_PART_BYTES)
    begun: dict[Remote, _Ahead] = {}
    workers = [
        asyncio.create_task(_fetch_each(line, small, blobs, begun)) for _ in range(line.num_streams)
    ]
    try:
        yield functools.partial(_fetch_in_turn, line, blobs, begun)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.wait(workers)


@dataclass(slots=True)
class _Ahead:
    """A blob whose turn may be to come."""

    end: asyncio.Future[None]
    completed_bytes: int = 0


async def _fetch_each(
    line: Line, remotes: Iterable[Remote], blobs: BlobStore, begun: dict[Remote, _Ahead]
) -> None:
    for remote in remotes:
        begun[remote] = ahead = _Ahead(asyncio.get_running_loop().create_future())
        try:
            async with aclosing(fetch(line, remote, blobs)) as fetching:
                async for progress in fetching:
                    ahead.completed_bytes = progress.completed_bytes
        except Exception as error:  # noqa: BLE001 - it is raised again in the blob's turn
            ahead.end.set_exception(error)
            ahead.end.exception()  # its turn may never come
            return
        ahead.end.set_result(None)


async def _fetch_in_turn(
    line: Line, blobs: BlobStore, begun: Mapping[Remote, _Ahead], remote: Remote
) -> AsyncGenerator[Progress, None]:
    if ahead := begun.get(remote):
        while not ahead.end.done():
            yield remote.report(ahead.completed_bytes)
            await asyncio.wait([ahead.end], timeout=REPORT_S)
        ahead.end.result()
    async with aclosing(fetch(line, remote, blobs)) as fetching:
        async for progress in fetching:
            yield progress
