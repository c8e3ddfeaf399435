"""Blobs off a network that is cut or slow, against a scripted server."""

from __future__ import annotations

import asyncio
import random
import subprocess
from collections.abc import Iterator
from contextlib import aclosing, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from yarl import URL

from olla.errors import StoreError
from olla.registry.blobs import BlobStore
from olla.registry.digest import Digest
from olla.registry.partial import Part, read_parts, try_open
from olla.sources.download import WRITE_BYTES, fetch
from olla.sources.line import Rate, open_line
from tests.sources.downloading import (
    BIG,
    DATA,
    MIDDLE,
    PATIENT,
    bring,
    check_whole,
    remote,
    serving,
)
from tests.sources.fault_server import Asked, Connection, fault_server


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "models")


@pytest.mark.parametrize("data", [b"", b"x", DATA, BIG], ids=len)
async def test_a_blob_comes_whole(blobs: BlobStore, data: bytes) -> None:
    async with fault_server(serving(data)) as server:
        steps = await bring(blobs, remote(server, data))

    check_whole(blobs, data)
    completed = [step.completed_bytes for step in steps]
    assert completed == sorted(completed)
    assert completed[-1] == len(data)
    assert {(step.digest, step.total_bytes) for step in steps} == {
        (str(Digest.of(data)), len(data))
    }


async def test_a_blob_that_is_there_is_not_asked_for(blobs: BlobStore) -> None:
    blobs.put(DATA)
    async with fault_server(serving()) as server:
        steps = await bring(blobs, remote(server))

    assert [step.completed_bytes for step in steps] == [len(DATA)]
    assert not server.asked


async def test_large_blobs_come_in_ranges(blobs: BlobStore) -> None:
    async with fault_server(serving(BIG)) as server:
        await bring(blobs, remote(server, BIG))

    ranges = sorted(asked.range(len(BIG)) for asked in server.asked)
    assert len(ranges) == 2
    assert [first for first, _ in ranges] == [0, *(end for _, end in ranges[:-1])]
    assert ranges[-1][1] == len(BIG)


@pytest.mark.parametrize(
    ("data", "seed"),
    [*((DATA, seed) for seed in range(100)), *((MIDDLE, seed) for seed in range(10))],
    ids=lambda value: len(value) if isinstance(value, bytes) else value,
)
async def test_where_the_line_is_cut_does_not_matter(
    blobs: BlobStore, data: bytes, seed: int
) -> None:
    """On the event loop, and off it as a larger body is read."""
    chance = random.Random(seed)
    cuts: Iterator[int] = (chance.randrange(1, len(data)) for _ in range(3))

    async def script(asked: Asked, connection: Connection) -> None:
        await connection.blob(asked, data, cut_after=next(cuts, None))

    async with fault_server(script) as server:
        await bring(blobs, remote(server, data))

    check_whole(blobs, data)
    assert server.sent_bytes <= 1.1 * len(data)


async def half_then_silence(asked: Asked, connection: Connection) -> None:
    await connection.head(200, f"Content-Length: {len(MIDDLE)}")
    await connection.send(MIDDLE[: len(MIDDLE) // 2])
    await asyncio.sleep(60)


async def half_then_the_rest(asked: Asked, connection: Connection) -> None:
    if "range" in asked.headers:
        await connection.blob(asked, MIDDLE)
    else:
        await half_then_silence(asked, connection)


def kept_bytes(blobs: BlobStore, digest: Digest) -> int:
    return sum(part.completed_bytes for part in read_parts(blobs, digest))


async def test_a_large_body_that_stalls_is_asked_for_again(blobs: BlobStore) -> None:
    async with fault_server(half_then_the_rest) as server:
        await bring(blobs, remote(server, MIDDLE))

    check_whole(blobs, MIDDLE)
    assert [asked.range(0)[0] for asked in server.asked] == [0, len(MIDDLE) // 2]


async def test_a_large_body_comes_by_a_proxy(
    blobs: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fault_server(serving(MIDDLE)) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        url = URL("http://registry.example/blob")
        await bring(blobs, replace(remote(proxy, MIDDLE), url=url))

    check_whole(blobs, MIDDLE)
    assert [asked.path for asked in proxy.asked] == [str(url)]


async def test_a_large_body_in_chunks_comes_whole(blobs: BlobStore) -> None:
    async def script(asked: Asked, connection: Connection) -> None:
        await connection.head(200, "Transfer-Encoding: chunked")
        for offset in range(0, len(MIDDLE), 2**19):
            await connection.send(b"80000\r\n" + MIDDLE[offset : offset + 2**19] + b"\r\n")
        await connection.send(b"0\r\n\r\n")

    async with fault_server(script) as server:
        await bring(blobs, remote(server, MIDDLE))

    check_whole(blobs, MIDDLE)


async def test_what_a_killed_transfer_left_is_not_asked_for_again(blobs: BlobStore) -> None:
    digest = Digest.of(DATA)
    partial = try_open(blobs, digest, len(DATA))
    assert partial is not None
    partial.write(partial.parts[0], [DATA[:200_000]])
    partial.close()

    async with fault_server(serving()) as server:
        steps = await bring(blobs, remote(server))

    check_whole(blobs)
    assert [asked.range(0) for asked in server.asked] == [(200_000, len(DATA))]
    assert steps[0].completed_bytes == 200_000


async def test_a_transfer_that_is_left_keeps_what_came(blobs: BlobStore) -> None:
    async with fault_server(half_then_silence) as server:
        wanted = remote(server, MIDDLE)
        async with (
            open_line(wanted.url, patience=PATIENT) as line,
            aclosing(fetch(line, wanted, blobs)) as steps,
        ):
            async for step in steps:
                if step.completed_bytes >= WRITE_BYTES:
                    break

    assert kept_bytes(blobs, wanted.digest) >= step.completed_bytes >= WRITE_BYTES
    assert not blobs.has(wanted.digest)


async def test_those_who_want_one_blob_share_one_transfer(blobs: BlobStore) -> None:
    async with fault_server(serving(BIG)) as server:
        results = await asyncio.gather(*(bring(blobs, remote(server, BIG)) for _ in range(3)))

    check_whole(blobs, BIG)
    assert all(steps[-1].completed_bytes == len(BIG) for steps in results)
    assert server.sent_bytes == len(BIG)


async def test_another_goes_on_when_the_one_who_brings_leaves(blobs: BlobStore) -> None:
    async with fault_server(half_then_the_rest) as server:
        wanted = remote(server, MIDDLE)
        first = asyncio.create_task(bring(blobs, wanted, PATIENT))
        while kept_bytes(blobs, wanted.digest) < WRITE_BYTES:  # noqa: ASYNC110 - on the disk
            await asyncio.sleep(0.01)
        second = asyncio.create_task(bring(blobs, wanted, PATIENT))
        first.cancel()
        await second

    check_whole(blobs, MIDDLE)
    starts = [asked.range(len(MIDDLE))[0] for asked in server.asked]
    assert starts[0] == 0
    assert WRITE_BYTES <= starts[1] <= len(MIDDLE) // 2
    assert len(starts) == 2


async def test_the_rate_is_kept(blobs: BlobStore) -> None:
    loop = asyncio.get_running_loop()
    async with fault_server(serving()) as server:
        started = loop.time()
        steps = await bring(blobs, remote(server), rate=Rate(len(DATA) * 2))

    assert 0.4 < loop.time() - started < 2
    assert len({step.completed_bytes for step in steps}) >= 2


async def test_a_disk_without_room_is_known_before_anything_comes(blobs: BlobStore) -> None:
    async with fault_server(serving()) as server:
        wanted = replace(remote(server), size_bytes=2**60)
        with pytest.raises(StoreError, match="no space left on device"):
            await bring(blobs, wanted)

    assert not server.asked


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of four megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


async def test_a_disk_that_fills_up_ends_it_and_keeps_what_came(small_disk: Path) -> None:
    blobs = BlobStore(small_disk)
    other = small_disk / "other"

    async def script(asked: Asked, connection: Connection) -> None:
        await connection.head(200, f"Content-Length: {len(MIDDLE)}")
        await connection.send(MIDDLE[:WRITE_BYTES])
        while kept_bytes(blobs, Digest.of(MIDDLE)) < WRITE_BYTES:  # noqa: ASYNC110 - on the disk
            await asyncio.sleep(0.01)
        with suppress(OSError):
            other.write_bytes(bytes(4 * 2**20))
        await connection.send(MIDDLE[WRITE_BYTES:])

    async with fault_server(script) as server:
        with pytest.raises(StoreError, match="No space left on device"):
            await bring(blobs, remote(server, MIDDLE), PATIENT)
        other.unlink()
        assert kept_bytes(blobs, Digest.of(MIDDLE)) >= WRITE_BYTES
    async with fault_server(serving(MIDDLE)) as server:
        await bring(blobs, remote(server, MIDDLE))

    check_whole(blobs, MIDDLE)
    assert server.asked[0].range(0)[0] >= WRITE_BYTES


def test_parts_in_pieces_that_do_not_fit_begin_anew(blobs: BlobStore) -> None:
    partial = try_open(blobs, Digest.of(DATA), len(DATA))
    assert partial is not None
    partial.parts = (Part(0, 0, 10),)
    partial.write(partial.parts[0], [DATA[:10]])
    partial.close()

    again = try_open(blobs, Digest.of(DATA), len(DATA))
    assert again is not None
    assert again.completed_bytes == 0
    again.close()


def test_a_blob_that_came_meanwhile_is_not_begun_again(blobs: BlobStore) -> None:
    """Another may have ended between a look for the blob and the opening of its parts."""
    blobs.put(DATA)

    assert try_open(blobs, Digest.of(DATA), len(DATA)) is None
    check_whole(blobs)
