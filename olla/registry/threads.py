"""Blocking work off the event loop, for work that may be cancelled at any moment."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import ParamSpec, Protocol, Self, TypeVar

_T = TypeVar("_T")
_P = ParamSpec("_P")
_PRIORITY = 10  # as the command nice sets it


async def run_to_end(function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """`asyncio.to_thread`, but a caller who is cancelled leaves only when the thread is done.

    So nobody closes a file or gives up a lock that a thread is still using.
    """
    return await _to_end(asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs)))


class _Closable(Protocol):
    def close(self) -> object: ...


_C = TypeVar("_C", bound=_Closable | None)


@asynccontextmanager
async def opened(
    function: Callable[_P, _C], *args: _P.args, **kwargs: _P.kwargs
) -> AsyncIterator[_C]:
    """For `async with`: what the function opens in a thread, closed at the end.

    Also for a caller who is cancelled while it opens.
    """
    work = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    try:
        yield await _to_end(work)
    finally:
        if work.exception() is None and (found := work.result()) is not None:
            await run_to_end(found.close)


class QuietThreads:
    """Threads for long work that is in no hurry: on a busy machine all others come first.

    For `with`; what runs has been awaited by then.
    """

    def __init__(self, num_threads: int) -> None:
        self._executor = ThreadPoolExecutor(num_threads, "quiet", initializer=_step_back)

    async def run_to_end(
        self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> _T:
        """As the function of that name."""
        return await _to_end(self._run(partial(function, *args, **kwargs)))

    async def run_until_left(
        self,
        interrupt: Callable[[], object],
        function: Callable[_P, _T],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> _T:
        """As `run_to_end`, for what may wait forever: when the caller is cancelled, `interrupt`
        has the function end soon."""
        return await _to_end(self._run(partial(function, *args, **kwargs)), interrupt)

    def _run(self, work: Callable[[], _T]) -> asyncio.Future[_T]:
        return asyncio.get_running_loop().run_in_executor(self._executor, work)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown()


async def _to_end(work: asyncio.Future[_T], interrupt: Callable[[], object] = lambda: None) -> _T:
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        interrupt()
        while not work.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([work])
        work.exception()  # seen: nobody is left to hear of it
        raise


def _step_back() -> None:
    """On Linux a thread has a priority of its own; elsewhere it would be the process's."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _PRIORITY)
