"""Small blobs are prefetched, against a scripted server."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from yarl import URL

from olla.errors import SourceError
from olla.registry.blobs import BlobStore
from olla.registry.digest import Digest
from olla.sources.download import Remote
from olla.sources.line import Patience, open_line
from olla.sources.prefetch import prefetching
from tests.sources.fault_server import Asked, Connection, FaultServer, fault_server

QUICK = Patience(stall_s=0.2, retries=3, back_off_s=0.001, max_back_off_s=0.01)


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "models")


def remote(server: FaultServer, path: str, data: bytes) -> Remote:
    return Remote(Digest.of(data), len(data), URL(server.url + path))


async def test_small_blobs_come_several_at_once(blobs: BlobStore) -> None:
    datas = {f"/{number}": bytes([number]) * 1000 for number in range(12)}
    now: set[str] = set()
    most = 0

    async def script(asked: Asked, connection: Connection) -> None:
        nonlocal most
        now.add(asked.path)
        most = max(most, len(now))
        await asyncio.sleep(0.01)
        now.remove(asked.path)
        await connection.blob(asked, datas[asked.path])

    async with fault_server(script) as server:
        remotes = [remote(server, path, data) for path, data in datas.items()]
        async with (
            open_line(URL(server.url), patience=QUICK) as line,
            prefetching(line, remotes, blobs) as fetch_next,
        ):
            for wanted in remotes:
                assert [step async for step in fetch_next(wanted)]
                assert blobs.has(wanted.digest)

    assert 1 < most <= line.num_streams + 1
    assert len(server.asked) == len(datas)


async def test_a_blob_that_failed_ahead_of_its_turn_is_not_tried_again(blobs: BlobStore) -> None:
    async def script(asked: Asked, connection: Connection) -> None:
        await connection.answer(503, b"come back later")

    async with fault_server(script) as server:
        wanted = remote(server, "/", b"any")
        async with (
            open_line(URL(server.url), patience=QUICK) as line,
            prefetching(line, [wanted], blobs) as fetch_next,
        ):
            while not server.asked:  # noqa: ASYNC110 - by another task
                await asyncio.sleep(0.001)
            with pytest.raises(SourceError, match="come back later"):
                async for _ in fetch_next(wanted):
                    pass

    assert len(server.asked) == 1 + QUICK.retries
