"""Blobs off a network that is cut, stalls, lies or is hostile, against a scripted server."""

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

from olla.errors import BlobCorrupt, SourceError, StoreError
from olla.registry.blobs import BlobStore
from olla.registry.digest import Digest
from olla.registry.partial import Part, read_parts, try_open
from olla.requests import Progress
from olla.sources.download import WRITE_BYTES, Remote, fetch
from olla.sources.line import Patience, Rate, open_line
from tests.sources.fault_server import Asked, Connection, FaultServer, Script, fault_server

DATA = random.Random(1).randbytes(300_000)
MIDDLE = random.Random(4).randbytes(3 * 2**20)  # one part, written in several pieces
BIG = random.Random(2).randbytes(17 * 2**20)  # two parts
PATIENT = Patience(stall_s=20)
QUICK = Patience(stall_s=0.2, retries=3, back_off_s=0.001, max_back_off_s=0.01)


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "models")


def remote(server: FaultServer, data: bytes = DATA) -> Remote:
    return Remote(Digest.of(data), len(data), URL(f"{server.url}/blob"))


async def bring(
    blobs: BlobStore,
    wanted: Remote,
    patience: Patience = QUICK,
    rate: Rate | None = None,
    headers: dict[str, str] | None = None,
) -> list[Progress]:
    async with open_line(wanted.url, patience=patience, rate=rate, headers=headers) as line:
        return [progress async for progress in fetch(line, wanted, blobs)]


def serving(data: bytes = DATA) -> Script:
    async def script(asked: Asked, connection: Connection) -> None:
        await connection.blob(asked, data)

    return script


def check_whole(blobs: BlobStore, data: bytes = DATA) -> None:
    """The blob is there, and nothing else is."""
    (path,) = blobs.directory.iterdir()
    assert path == blobs.path(Digest.of(data))
    assert path.read_bytes() == data


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


@pytest.mark.parametrize("seed", range(100))
async def test_where_the_line_is_cut_does_not_matter(blobs: BlobStore, seed: int) -> None:
    chance = random.Random(seed)
    cuts: Iterator[int] = (chance.randrange(1, len(DATA)) for _ in range(3))

    async def script(asked: Asked, connection: Connection) -> None:
        await connection.blob(asked, DATA, cut_after=next(cuts, None))

    async with fault_server(script) as server:
        await bring(blobs, remote(server))

    check_whole(blobs)
    assert server.sent_bytes <= 1.1 * len(DATA)


@pytest.mark.parametrize("seed", range(10))
async def test_nor_where_it_is_cut_off_the_event_loop(blobs: BlobStore, seed: int) -> None:
    chance = random.Random(seed)
    cuts: Iterator[int] = (chance.randrange(1, len(MIDDLE)) for _ in range(3))

    async def script(asked: Asked, connection: Connection) -> None:
        await connection.blob(asked, MIDDLE, cut_after=next(cuts, None))

    async with fault_server(script) as server:
        await bring(blobs, remote(server, MIDDLE))

    check_whole(blobs, MIDDLE)
    assert server.sent_bytes <= 1.1 * len(MIDDLE)


async def test_a_large_body_that_stalls_is_asked_for_again(blobs: BlobStore) -> None:
    async def script(asked: Asked, connection: Connection) -> None:
        if "range" in asked.headers:
            await connection.blob(asked, MIDDLE)
        else:
            await half_then_silence(asked, connection)

    async with fault_server(script) as server:
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


async def half_then_silence(asked: Asked, connection: Connection) -> None:
    await connection.head(200, f"Content-Length: {len(MIDDLE)}")
    await connection.send(MIDDLE[: len(MIDDLE) // 2])
    await asyncio.sleep(60)


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


def kept_bytes(blobs: BlobStore, digest: Digest) -> int:
    return sum(part.completed_bytes for part in read_parts(blobs, digest))


async def test_those_who_want_one_blob_share_one_transfer(blobs: BlobStore) -> None:
    async with fault_server(serving(BIG)) as server:
        results = await asyncio.gather(*(bring(blobs, remote(server, BIG)) for _ in range(3)))

    check_whole(blobs, BIG)
    assert all(steps[-1].completed_bytes == len(BIG) for steps in results)
    assert server.sent_bytes == len(BIG)


async def test_another_goes_on_when_the_one_who_brings_leaves(blobs: BlobStore) -> None:
    async def script(asked: Asked, connection: Connection) -> None:
        if "range" in asked.headers:
            await connection.blob(asked, MIDDLE)
        else:
            await half_then_silence(asked, connection)

    async with fault_server(script) as server:
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


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
async def test_a_busy_server_is_asked_again(blobs: BlobStore, status: int) -> None:
    answers = iter([status, status])

    async def script(asked: Asked, connection: Connection) -> None:
        if number := next(answers, 0):
            await connection.answer(number, b"busy")
            return
        await connection.blob(asked, DATA)

    async with fault_server(script) as server:
        await bring(blobs, remote(server))

    check_whole(blobs)
    assert len(server.asked) == 3


async def test_it_waits_as_long_as_the_server_asks_for(blobs: BlobStore) -> None:
    loop = asyncio.get_running_loop()
    moments: list[float] = []

    async def script(asked: Asked, connection: Connection) -> None:
        moments.append(loop.time())
        if len(moments) == 1:
            await connection.answer(429, b"", "Retry-After: 1")
            return
        await connection.blob(asked, DATA)

    async with fault_server(script) as server:
        await bring(blobs, remote(server))

    assert moments[1] - moments[0] >= 1


async def test_a_server_that_stays_busy_is_given_up(blobs: BlobStore) -> None:
    async def script(asked: Asked, connection: Connection) -> None:
        await connection.answer(503, b"come back later")

    async with fault_server(script) as server:
        with pytest.raises(SourceError, match="max retries exceeded: 503: come back later"):
            await bring(blobs, remote(server))

    assert len(server.asked) == 1 + QUICK.retries


async def test_a_server_that_stalls_is_asked_again(blobs: BlobStore) -> None:
    async def script(asked: Asked, connection: Connection) -> None:
        if "range" in asked.headers:
            await connection.blob(asked, DATA)
            return
        await connection.head(200, f"Content-Length: {len(DATA)}")
        await connection.send(DATA[:1000])
        await asyncio.sleep(60)

    async with fault_server(script) as server:
        await bring(blobs, remote(server))

    check_whole(blobs)
    assert [asked.range(0)[0] for asked in server.asked] == [0, 1000]


async def test_a_server_that_only_stalls_is_given_up(blobs: BlobStore) -> None:
    async def script(asked: Asked, connection: Connection) -> None:
        await asyncio.sleep(60)

    async with fault_server(script) as server:
        with pytest.raises(SourceError, match=r"max retries exceeded: .* too long"):
            await bring(blobs, remote(server), replace(QUICK, stall_s=0.02))


@pytest.mark.parametrize("status", [400, 403, 404, 416])
async def test_what_is_refused_is_not_asked_for_again(blobs: BlobStore, status: int) -> None:
    async def script(asked: Asked, connection: Connection) -> None:
        await connection.answer(status, b"no such thing")

    async with fault_server(script) as server:
        with pytest.raises(SourceError, match=f"^{status}: no such thing$"):
            await bring(blobs, remote(server))

    assert len(server.asked) == 1


async def test_nothing_listens(blobs: BlobStore) -> None:
    async with fault_server(serving()) as server:
        wanted = remote(server)

    with pytest.raises(SourceError, match=r"max retries exceeded: 127\.0\.0\.1: Cannot connect"):
        await bring(blobs, wanted)


@pytest.mark.parametrize("cut", [False, True])
async def test_a_server_without_ranges_sends_it_whole(blobs: BlobStore, cut: bool) -> None:
    cuts = iter([len(BIG) // 2] if cut else [])

    async def script(asked: Asked, connection: Connection) -> None:
        if "range" in asked.headers and "-" in asked.headers["range"]:
            del asked.headers["range"]
        await connection.blob(asked, BIG, cut_after=next(cuts, None))

    async with fault_server(script) as server:
        await bring(blobs, remote(server, BIG))

    check_whole(blobs, BIG)


@pytest.mark.parametrize("text", ["bytes 0-9/300000", "bytes 100000-299998/300000", "", "x"])
async def test_another_range_than_asked_for_is_refused(blobs: BlobStore, text: str) -> None:
    async def script(asked: Asked, connection: Connection) -> None:
        if "range" not in asked.headers:
            await connection.blob(asked, DATA, cut_after=100_000)
            return
        await connection.answer(206, DATA[100_000:], f"Content-Range: {text}")

    async with fault_server(script) as server:
        with pytest.raises(SourceError, match="sent another range than was asked for"):
            await bring(blobs, remote(server))


@pytest.mark.parametrize("status", [200, 206])
async def test_a_blob_of_another_size_is_refused(blobs: BlobStore, status: int) -> None:
    async def script(asked: Asked, connection: Connection) -> None:
        if status == 200:
            await connection.answer(200, DATA + b"more")
            return
        if "range" not in asked.headers:
            await connection.blob(asked, DATA, cut_after=100_000)
            return
        text = f"Content-Range: bytes 100000-299999/{len(DATA) + 1}"
        await connection.answer(206, DATA[100_000:], text)

    async with fault_server(script) as server:
        with pytest.raises(SourceError, match=r"has 30000\d bytes of it, not 300000"):
            await bring(blobs, remote(server))


async def test_a_body_without_end_is_left(blobs: BlobStore) -> None:
    async def script(asked: Asked, connection: Connection) -> None:
        await connection.head(200)
        while True:
            await connection.send(DATA)

    async with fault_server(script) as server:
        with pytest.raises(SourceError, match="sent more bytes than the blob has"):
            await bring(blobs, remote(server))


async def test_other_bytes_than_those_of_the_digest_are_not_kept(blobs: BlobStore) -> None:
    async with fault_server(serving(DATA[:-1] + b"?")) as server:
        with pytest.raises(BlobCorrupt) as caught:
            await bring(blobs, remote(server))

    actual = Digest.of(DATA[:-1] + b"?")
    assert str(caught.value) == (
        f"digest mismatch, file must be downloaded again: want {Digest.of(DATA)}, got {actual}"
    )
    assert not list(blobs.directory.iterdir())


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "zstd"])
async def test_a_compressed_body_is_refused(blobs: BlobStore, encoding: str) -> None:
    async def script(asked: Asked, connection: Connection) -> None:
        assert asked.headers["accept-encoding"] == "identity"
        await connection.answer(200, DATA, f"Content-Encoding: {encoding}")

    async with fault_server(script) as server:
        with pytest.raises(SourceError, match="sent a compressed body that nobody asked for"):
            await bring(blobs, remote(server))


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
