"""Uploads over HTTP: kept only when they are what they claim."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from olla.registry.digest import Digest
from olla.registry.store import ModelStore
from olla.server.streaming import MAX_BODY_BYTES
from tests.server.conftest import Client, error_of, open_connection, until

DATA = b"weights" * 1000
DIGEST = Digest.of(DATA)


async def test_an_upload_is_new_once(client: Client, store: ModelStore) -> None:
    path = f"/api/blobs/{DIGEST}"

    assert (await client.head(path)).status == 404
    assert (await client.post(path, data=DATA)).status == 201
    assert (await client.head(path)).status == 200
    assert (await client.post(path, data=DATA)).status == 200
    assert store.blobs.path(DIGEST).read_bytes() == DATA


async def test_an_upload_may_come_in_pieces(client: Client, store: ModelStore) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield DATA[:3000]
        yield DATA[3000:]

    response = await client.post(f"/api/blobs/{DIGEST.file_name}", data=pieces())

    assert response.status == 201
    assert store.blobs.size_bytes(DIGEST) == len(DATA)


@pytest.mark.parametrize("digest", ["sha256:ab", "md5:" + "0" * 64, "sha256:" + "g" * 64])
@pytest.mark.parametrize("method", ["HEAD", "POST"])
async def test_a_digest_that_is_none(client: Client, digest: str, method: str) -> None:
    response = await client.request(method, f"/api/blobs/{digest}", data=b"")

    assert response.status == 400
    if method == "POST":
        assert await error_of(response) == (400, "invalid digest format")


async def test_an_upload_that_does_not_hash_to_its_digest_is_not_kept(
    client: Client, store: ModelStore
) -> None:
    response = await client.post(f"/api/blobs/{DIGEST}", data=b"other")

    other = Digest.of(b"other")
    assert await error_of(response) == (
        400,
        f'digest mismatch, expected "{DIGEST}", got "{other}"',
    )
    assert list(store.blobs.directory.iterdir()) == []


async def test_a_long_upload_is_written_as_it_comes_and_gone_with_its_client(
    client: Client, store: ModelStore
) -> None:
    _, writer = await open_connection(client)
    head = f"POST /api/blobs/{DIGEST} HTTP/1.1\r\nHost: localhost\r\n"
    writer.write(f"{head}Content-Length: {MAX_BODY_BYTES + 1}\r\n\r\n".encode() + DATA)
    await until(lambda: _num_files(store) == 1)

    writer.close()

    await until(lambda: _num_files(store) == 0)


def _num_files(store: ModelStore) -> int:
    directory = store.blobs.directory
    return len(list(directory.iterdir())) if directory.is_dir() else 0
