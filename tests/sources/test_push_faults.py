"""Pushes to a registry that breaks, moves uploads elsewhere, or has the blob already."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace

import pytest

from olla.errors import SourceError
from olla.names import ModelName
from olla.registry.digest import Digest
from olla.registry.manifest import (
    CONFIG_TYPE,
    Layer,
    Manifest,
    MediaType,
    format_manifest,
)
from olla.registry.store import ModelStore
from olla.requests import TransferOptions
from olla.sources.ollama import Registry
from olla.sources.push import NUM_UPLOADS, push
from tests.sources.fault_server import Asked, Connection, FaultServer, Script, fault_server

CONFIG = b"{}"
DATA = bytes(range(256)) * 10
PART_BYTES = 1000
UPLOAD = "/upload/1"


async def send(
    registry: Registry, store: ModelStore, server: FaultServer, source: str = ""
) -> None:
    name = ModelName.parse(f"127.0.0.1:{server.port}/me/model:v1")
    digest, config = store.blobs.put(DATA), store.blobs.put(CONFIG)
    layer = Layer(MediaType.LICENSE, digest, len(DATA), source=source)
    manifest = Manifest(Layer(CONFIG_TYPE, config, len(CONFIG)), (layer,))
    store.put(name, format_manifest(manifest))
    patience = replace(registry.patience, push_part_bytes=PART_BYTES, retries=3)
    hurried = replace(registry, patience=patience)
    async for _ in push(hurried, name, store, TransferOptions(insecure=True)):
        pass


def taking(patch: Script) -> Script:
    """A registry that has the config, and takes the layer as `patch` says."""

    async def script(asked: Asked, connection: Connection) -> None:
        if asked.method == "HEAD":
            has_it = asked.path.endswith(Digest.of(CONFIG).hex)
            await connection.answer(200 if has_it else 404)
        elif asked.method == "POST":
            await connection.answer(202, b"", f"Location: {UPLOAD}")
        elif asked.path.startswith(UPLOAD) and asked.method != "PUT":
            await patch(asked, connection)
        else:
            await connection.answer(201)

    return script


async def accept(asked: Asked, connection: Connection) -> None:
    await connection.answer(202, b"", f"Location: {UPLOAD}")


def requests(server: FaultServer, method: str) -> list[Asked]:
    return [asked for asked in server.asked if asked.method == method]


async def test_a_blob_goes_in_parts(registry: Registry, store: ModelStore) -> None:
    async with fault_server(taking(accept)) as server:
        await send(registry, store, server)

    parts = requests(server, "PATCH")
    assert b"".join(part.body for part in parts) == DATA
    ranges = [part.headers["content-range"] for part in parts]
    assert ranges == ["0-999", "1000-1999", "2000-2559"]
    finish, manifest = requests(server, "PUT")
    md5s = b"".join(hashlib.md5(part.body).digest() for part in parts)
    etag = f"{hashlib.md5(md5s).hexdigest()}-3"
    assert finish.path == f"{UPLOAD}?digest=sha256:{Digest.of(DATA).hex}&etag={etag}"
    assert manifest.path == "/v2/me/model/manifests/v1"


@pytest.mark.parametrize(("told", "start"), [("0-1499", 1500), ("0-0", 0), ("", 0)])
async def test_an_upload_that_breaks_goes_on_where_the_registry_says(
    registry: Registry, store: ModelStore, told: str, start: int
) -> None:
    statuses = iter([202, 500])

    async def patch(asked: Asked, connection: Connection) -> None:
        if asked.method == "GET":
            await connection.answer(204, b"", f"Location: {UPLOAD}", f"Range: {told}")
        elif next(statuses, 202) == 202:
            await accept(asked, connection)
        else:
            await connection.answer(500, b"oops")

    async with fault_server(taking(patch)) as server:
        await send(registry, store, server)

    parts = requests(server, "PATCH")
    assert parts[2].headers["content-range"].startswith(f"{start}-")
    assert DATA.endswith(b"".join(part.body for part in parts[2:]))
    assert len(b"".join(part.body for part in parts[2:])) == len(DATA) - start


async def test_an_upload_that_the_registry_lost_begins_anew(
    registry: Registry, store: ModelStore
) -> None:
    statuses = iter([500])

    async def patch(asked: Asked, connection: Connection) -> None:
        if asked.method == "GET":
            await connection.answer(404, b"unknown upload")
        elif next(statuses, 0):
            await connection.answer(500, b"oops")
        else:
            await accept(asked, connection)

    async with fault_server(taking(patch)) as server:
        await send(registry, store, server)

    assert len(requests(server, "POST")) == 2
    assert b"".join(part.body for part in requests(server, "PATCH")[1:]) == DATA


async def test_a_registry_that_stays_broken_is_given_up(
    registry: Registry, store: ModelStore
) -> None:
    async def patch(asked: Asked, connection: Connection) -> None:
        await connection.answer(503, b"busy")

    async with fault_server(taking(patch)) as server:
        with pytest.raises(SourceError, match="max retries exceeded: 503: busy"):
            await send(registry, store, server)

    assert not requests(server, "PUT")


async def test_parts_may_be_wanted_elsewhere_without_credentials(
    registry: Registry, store: ModelStore
) -> None:
    async def keep(asked: Asked, connection: Connection) -> None:
        await connection.answer(200)

    async with fault_server(keep) as other:

        async def patch(asked: Asked, connection: Connection) -> None:
            there = f"Location: {other.url}/part"
            await connection.answer(307, b"", there, f"Docker-Upload-Location: {UPLOAD}")

        async with fault_server(taking(patch)) as server:
            await send(registry, store, server)

    assert [asked.method for asked in other.asked] == ["PUT"] * 3
    assert b"".join(asked.body for asked in other.asked) == DATA
    assert not any("authorization" in asked.headers for asked in other.asked)


async def test_a_blob_of_another_repository_is_mounted(
    registry: Registry, store: ModelStore
) -> None:
    async def script(asked: Asked, connection: Connection) -> None:
        await connection.answer(404 if asked.method == "HEAD" else 201)

    async with fault_server(script) as server:
        await send(registry, store, server, source="library/base:v2")

    mount = f"?mount=sha256:{Digest.of(DATA).hex}&from=library/base"
    paths = {asked.path for asked in requests(server, "POST")}
    uploads = "/v2/me/model/blobs/uploads/"
    assert paths == {uploads + mount, uploads}
    assert not requests(server, "PATCH")


async def test_an_upload_without_a_place_is_refused(registry: Registry, store: ModelStore) -> None:
    async def script(asked: Asked, connection: Connection) -> None:
        await connection.answer(404 if asked.method == "HEAD" else 202)

    async with fault_server(script) as server:
        with pytest.raises(SourceError, match="does not say where to upload to"):
            await send(registry, store, server)


async def test_blobs_go_several_at_once_and_are_reported_in_turn(
    registry: Registry, store: ModelStore
) -> None:
    datas = [DATA[:number] for number in range(1, 9)]
    blobs = [Layer(MediaType.LICENSE, store.blobs.put(data), len(data)) for data in datas]
    config = Layer(CONFIG_TYPE, store.blobs.put(CONFIG), len(CONFIG))
    now, most = 0, 0

    async def patch(asked: Asked, connection: Connection) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.01)
        now -= 1
        await accept(asked, connection)

    async with fault_server(taking(patch)) as server:
        name = ModelName.parse(f"127.0.0.1:{server.port}/me/model:v1")
        store.put(name, format_manifest(Manifest(config, tuple(blobs))))
        options = TransferOptions(insecure=True)
        steps = [step async for step in push(registry, name, store, options)]

    assert 1 < most <= NUM_UPLOADS
    assert sorted(asked.body for asked in requests(server, "PATCH")) == datas
    assert server.asked[-1].path == "/v2/me/model/manifests/v1"
    reported = dict.fromkeys(step.digest for step in steps if step.digest)
    assert list(reported) == [str(layer.digest) for layer in (*blobs, config)]
