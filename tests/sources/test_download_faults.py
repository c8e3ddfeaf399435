"""Servers that are busy, stall, refuse, lie or are hostile, as blobs are brought from them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from olla.errors import BlobCorrupt, SourceError
from olla.registry.blobs import BlobStore
from olla.registry.digest import Digest
from tests.sources.downloading import BIG, DATA, QUICK, bring, check_whole, remote, serving
from tests.sources.fault_server import Asked, Connection, fault_server


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "models")


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

    with pytest.raises(SourceError, match=r"max retries exceeded: 127\.0\.0\.1: cannot connect"):
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
