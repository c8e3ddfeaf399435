"""Manifests and blobs of registries that lie, and what a registry is asked."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from olla.errors import InvalidName, SourceError, SourceNotFound, StoreError
from olla.names import ModelName
from olla.registry.digest import Digest
from olla.registry.manifest import MANIFEST_TYPE
from olla.registry.store import ModelStore
from olla.requests import Progress, TransferOptions
from olla.sources.ollama import OllamaSource, Registry
from olla.sources.pull import pull
from tests.sources.fault_server import Asked, Connection, FaultServer, Script, fault_server

CONFIG, SYSTEM = b"{}", b"Be brief."
INSECURE = TransferOptions(insecure=True)


def layer(data: bytes, **changes: object) -> dict[str, object]:
    return {
        "mediaType": "application/vnd.ollama.image.system",
        "digest": str(Digest.of(data)),
        "size": len(data),
        **changes,
    }


def manifest(*layers: object, **changes: object) -> dict[str, object]:
    return {"schemaVersion": 2, "config": layer(CONFIG), "layers": list(layers), **changes}


def serving(document: object, *blobs: bytes) -> Script:
    """A registry of one model."""
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    stored = {str(Digest.of(blob)): blob for blob in (CONFIG, *blobs)}

    async def script(asked: Asked, connection: Connection) -> None:
        place = asked.path.rpartition("/")[2].replace("%3A", ":")
        if "/manifests/" in asked.path:
            await connection.answer(200, data)
        elif place in stored:
            await connection.blob(asked, stored[place])
        else:
            await connection.answer(404, b"no such blob")

    return script


def name_at(server: FaultServer) -> ModelName:
    return ModelName.parse(f"127.0.0.1:{server.port}/me/model:v1")


async def bring(registry: Registry, store: ModelStore, server: FaultServer) -> list[Progress]:
    name = name_at(server)
    source = OllamaSource(name, INSECURE, registry)
    return [step async for step in pull(name, store, source)]


async def test_what_is_asked_for(registry: Registry, store: ModelStore) -> None:
    async with fault_server(serving(manifest(layer(SYSTEM)), SYSTEM)) as server:
        await bring(registry, store, server)

    asked = [(asked.method, asked.path) for asked in server.asked]
    blobs = [("GET", f"/v2/me/model/blobs/{Digest.of(data)}") for data in (SYSTEM, CONFIG)]
    assert asked[0] == ("GET", "/v2/me/model/manifests/v1")
    assert sorted(asked[1:]) == sorted(blobs)  # at once
    assert server.asked[0].headers["accept"] == MANIFEST_TYPE
    assert server.asked[0].headers["user-agent"].startswith("ollama/")
    assert " olla/" in server.asked[0].headers["user-agent"]
    assert store.resolve(name_at(server)).system == "Be brief."


async def test_digests_in_upper_case_are_the_same_digests(
    registry: Registry, store: ModelStore
) -> None:
    upper = f"sha256:{Digest.of(SYSTEM).hex.upper()}"
    async with fault_server(serving(manifest(layer(SYSTEM, digest=upper)), SYSTEM)) as server:
        await bring(registry, store, server)

    assert store.resolve(name_at(server)).system == "Be brief."
    assert store.blobs.read(Digest.of(SYSTEM)) == SYSTEM


async def test_a_blob_named_twice_comes_once(registry: Registry, store: ModelStore) -> None:
    twice = manifest(layer(SYSTEM), layer(SYSTEM))
    async with fault_server(serving(twice, SYSTEM)) as server:
        await bring(registry, store, server)

    assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (manifest(), "it names no layers"),
        (manifest(layers=None), "it names no layers"),
        (None, "it is not a JSON object"),
        ([], "it is not a JSON object"),
        (b"", "it is not JSON"),
        (b"[" * 100_000, "it is not JSON"),
        (b"\xff\xfe", "it is not JSON"),
        (b"<html>hello</html>", "it is not JSON"),
        (manifest(layers={}), "it names no layers"),
        (manifest(layers="many"), "its layers are not a list"),
        (manifest(None), "a layer is not a JSON object"),
        (manifest(7), "a layer is not a JSON object"),
        (manifest(layer(SYSTEM), config=None), "a layer is not a JSON object"),
        (manifest(layer(SYSTEM, size="9")), "a layer has the size '9'"),
        (manifest(layer(SYSTEM, size=-1)), "a layer has the size -1"),
        (manifest(layer(SYSTEM, size=9.5)), "a layer has the size 9.5"),
        (manifest(layer(SYSTEM, size=True)), "a layer has the size True"),
        (manifest(layer(SYSTEM, mediaType=3)), "a field that is not text"),
        (manifest(layer(SYSTEM, digest=None)), "invalid digest"),
        (manifest(layer(SYSTEM, digest="sha256:" + "../" * 21 + "x")), "invalid digest"),
        (manifest(layer(SYSTEM, digest="sha256:../../../etc/passwd")), "invalid digest"),
        (manifest(layer(SYSTEM, digest="sha512:" + "a" * 128)), "invalid digest"),
        (manifest(layer(SYSTEM, digest="sha256:" + "g" * 64)), "invalid digest"),
        (manifest(layer(SYSTEM, digest="sha256:" + "a" * 63)), "invalid digest"),
        (manifest(layer(SYSTEM, digest="md5:" + "a" * 64)), "invalid digest"),
        (manifest(layer(SYSTEM, digest="sha256:" + "a" * 64 + "\n")), "invalid digest"),
    ],
)
async def test_a_broken_manifest_is_refused_by_name(
    registry: Registry, store: ModelStore, document: object, reason: str
) -> None:
    async with fault_server(serving(document, SYSTEM)) as server:
        with pytest.raises(SourceError) as caught:
            await bring(registry, store, server)

    assert str(caught.value).startswith("pull model manifest: ")
    assert reason in str(caught.value)
    assert len(server.asked) == 1
    check_empty(store)


def check_empty(store: ModelStore) -> None:
    """Nothing was stored, in the store or beside it, and no model is there."""
    assert store.list() == ()
    root = store.blobs.directory.parent
    files = [path for path in root.parent.rglob("*") if path.is_file()]
    assert [path.relative_to(root) for path in files] in ([], [Path(".olla/lock")])


@pytest.mark.parametrize("config", [b"[]", b"", b"\xff", b'{"model_format": 7}'])
async def test_a_broken_config_makes_no_model(
    registry: Registry, store: ModelStore, config: bytes
) -> None:
    document = manifest(layer(SYSTEM), config=layer(config))
    async with fault_server(serving(document, SYSTEM, config)) as server:
        with pytest.raises(SourceError, match="pull model manifest: broken config"):
            await bring(registry, store, server)

    assert store.list() == ()


async def test_a_million_layers_are_too_many(registry: Registry, store: ModelStore) -> None:
    line = json.dumps(layer(SYSTEM)).encode()
    document = b'{"config":' + line + b',"layers":[' + b",".join([line] * 10**6) + b"]}"

    async with fault_server(serving(document, SYSTEM)) as server:
        with pytest.raises(SourceError, match="sent more than 16777216 bytes"):
            await bring(registry, store, server)

    check_empty(store)


async def test_a_manifest_that_would_unpack_to_a_gigabyte_is_not_unpacked(
    registry: Registry, store: ModelStore
) -> None:
    packer = zlib.compressobj(wbits=31)  # gzip
    bomb = b"".join(packer.compress(bytes(2**20)) for _ in range(1024)) + packer.flush()

    async def script(asked: Asked, connection: Connection) -> None:
        await connection.answer(200, bomb, "Content-Encoding: gzip")

    async with fault_server(script) as server:
        with pytest.raises(SourceError, match="sent a compressed body that nobody asked for"):
            await bring(registry, store, server)

    check_empty(store)


@pytest.mark.parametrize("size", [len(SYSTEM) - 1, len(SYSTEM) + 1, 0])
async def test_a_blob_of_another_size_than_the_manifest_says(
    registry: Registry, store: ModelStore, size: int
) -> None:
    async with fault_server(serving(manifest(layer(SYSTEM, size=size)), SYSTEM)) as server:
        with pytest.raises((SourceError, StoreError)):
            await bring(registry, store, server)

    assert store.list() == ()
    assert not store.blobs.has(Digest.of(SYSTEM))


async def test_a_blob_that_is_here_in_another_size_makes_no_model(
    registry: Registry, store: ModelStore
) -> None:
    store.blobs.put(SYSTEM)
    async with fault_server(serving(manifest(layer(SYSTEM, size=5)), SYSTEM)) as server:
        with pytest.raises(StoreError, match="has 9 bytes, not 5"):
            await bring(registry, store, server)

    assert store.list() == ()


@pytest.mark.parametrize(
    ("status", "body", "text"),
    [
        (404, b"", "pull model manifest: file does not exist"),
        (412, b"update Ollama", "pull model manifest: 412: update Ollama"),
        (403, b"no", "pull model manifest: 403: no"),
        (401, b"no", "pull model manifest: unauthorized: access denied"),
        (503, b"busy", "pull model manifest: max retries exceeded: 503: busy"),
        (302, b"", "pull model manifest: unexpected status code 302"),
    ],
)
async def test_the_registry_says_no(
    registry: Registry, store: ModelStore, status: int, body: bytes, text: str
) -> None:
    async def script(asked: Asked, connection: Connection) -> None:
        await connection.answer(status, body)

    async with fault_server(script) as server:
        with pytest.raises(SourceError) as caught:
            await bring(registry, store, server)

    assert str(caught.value) == text
    assert isinstance(caught.value, SourceNotFound) == (status == 404)


async def test_a_blob_that_fails_leaves_no_model(registry: Registry, store: ModelStore) -> None:
    async with fault_server(serving(manifest(layer(SYSTEM), layer(b"gone")), SYSTEM)) as server:
        with pytest.raises(SourceError, match="404: no such blob"):
            await bring(registry, store, server)

    assert store.list() == ()


@pytest.mark.parametrize(
    "text",
    [
        "host/../model",
        "../../etc/passwd",
        "host/ns/..",
        "host/ns/model:..",
        "host/ns/%2e%2e",
        "host/%2e%2e/model",
        "host/ns/mo\0del",
        "host/ns/mod\u0435l",  # a Cyrillic letter
        "host/ns/model\uff0f..",
        "host/ns/" + "a" * 300,
        "a" * 300,
        "host/ns/model:" + "a" * 300,
        "h" * 351 + "/ns/model",
        "user:password@host/ns/model",
        "file:///etc/passwd",
        "host/ns/model@sha256:" + "a" * 64,
    ],
)
def test_names_that_lead_elsewhere_are_no_names(text: str) -> None:
    with pytest.raises(InvalidName):
        ModelName.parse(text)


@pytest.mark.parametrize("host", ["host:port", "h:1:2", "host:99999"])
async def test_a_host_that_is_none_is_refused(
    registry: Registry, store: ModelStore, host: str
) -> None:
    name = ModelName.parse(f"{host}/ns/model")

    with pytest.raises(SourceError):
        await anext(OllamaSource(name, INSECURE, registry).fetch(store.blobs, _NO_HOLD))


class _NoHold:
    def add(self, digest: Digest) -> None:
        raise AssertionError


_NO_HOLD: Any = _NoHold()


async def test_a_plan_transfers_nothing(registry: Registry) -> None:
    async with fault_server(serving(manifest(layer(SYSTEM)), SYSTEM)) as server:
        planned = await OllamaSource(name_at(server), INSECURE, registry).plan()

    assert [(item.size_bytes, item.digest) for item in planned] == [
        (len(SYSTEM), Digest.of(SYSTEM)),
        (len(CONFIG), Digest.of(CONFIG)),
    ]
    assert len(server.asked) == 1


def redirecting(status: int, headers: Mapping[str, str], blob: bytes) -> Script:
    inner = serving(manifest(layer(blob)), blob)

    async def script(asked: Asked, connection: Connection) -> None:
        if "/blobs/" in asked.path and "/cdn" not in asked.path:
            to = f"/cdn{asked.path}"
            await connection.answer(status, b"", f"Location: {to}", *headers)
        else:
            await inner(asked, connection)

    return script


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_blobs_may_be_elsewhere(registry: Registry, store: ModelStore, status: int) -> None:
    async with fault_server(redirecting(status, {}, SYSTEM)) as server:
        await bring(registry, store, server)

    assert store.resolve(name_at(server)).system == "Be brief."
