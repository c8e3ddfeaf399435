"""Threads that are waited for, and threads that let others go first."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from pathlib import Path
from typing import BinaryIO

import pytest

from olla.registry.threads import QuietThreads, opened, run_to_end


def priority() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere threads have no priority of theirs")
async def test_quiet_threads_step_back_and_nobody_else_does() -> None:
    before = priority()

    with QuietThreads(1) as threads:
        quiet = await threads.run_to_end(priority)
    other = await asyncio.to_thread(priority)

    assert quiet >= min(before + 1, 10)
    assert (priority(), other) == (before, before)


@pytest.mark.parametrize("is_quiet", [False, True])
async def test_who_is_cancelled_leaves_when_the_thread_is_done(is_quiet: bool) -> None:
    begun, may_end, has_ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        may_end.wait(10)
        has_ended.set()

    with QuietThreads(1) as threads:
        run = threads.run_to_end if is_quiet else run_to_end
        task = asyncio.ensure_future(run(work))
        await asyncio.to_thread(begun.wait, 10)
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
        may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    assert has_ended.is_set()


async def test_what_opens_for_one_who_is_cancelled_is_closed(tmp_path: Path) -> None:
    begun, may_end = threading.Event(), threading.Event()
    files: list[BinaryIO] = []

    def open_slowly() -> BinaryIO:
        begun.set()
        may_end.wait(10)
        files.append((tmp_path / "file").open("wb"))
        return files[0]

    async def use() -> None:
        async with opened(open_slowly):
            raise AssertionError("it was cancelled before")

    task = asyncio.create_task(use())
    await asyncio.to_thread(begun.wait, 10)
    task.cancel()
    await asyncio.sleep(0)
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert files[0].closed


async def test_what_may_wait_forever_is_interrupted() -> None:
    begun, may_end = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        assert may_end.wait(10)

    with QuietThreads(1) as threads:
        task = asyncio.ensure_future(threads.run_until_left(may_end.set, work))
        await asyncio.to_thread(begun.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
