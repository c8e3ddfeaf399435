"""/v2: the store as a registry, read by our own puller over a real socket."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from olla.names import ModelName
from olla.registry.digest import Digest
from olla.registry.manifest import MediaType
from olla.registry.store import ModelStore
from olla.requests import TransferOptions
from olla.server.app import create_app
from olla.server.services import Services
from olla.sources.ollama import OllamaSource, Registry
from olla.sources.ollama_auth import Keyring
from olla.sources.pull import pull
from tests.registry.models import put_model, verify
from tests.server.conftest import Client, FakeSource, add_model, error_of

WEIGHTS = bytes(range(256)) * 1000


@pytest.fixture
async def sharing(
    services: Services, store: ModelStore, aiohttp_client: Callable[..., Awaitable[Client]]
) -> Client:
    put_model(store, "mine:v1", (MediaType.MODEL, WEIGHTS), (MediaType.SYSTEM, b"Be brief."))
    settings = replace(services.settings, share=True)
    return await aiohttp_client(create_app(settings, replace(services, settings=settings)))


async def test_a_model_goes_from_one_olla_to_another(sharing: Client, tmp_path: Path) -> None:
    name = ModelName.parse(f"127.0.0.1:{sharing.port}/library/mine:v1")
    registry = Registry(Keyring(tmp_path, tmp_path))
    source = OllamaSource(name, TransferOptions(insecure=True), registry)
    other = ModelStore(tmp_path / "other")

    async for _ in pull(name, other, source):
        pass

    verify(other, name.full)
    assert other.resolve(name).system == "Be brief."


async def test_a_model_from_elsewhere_is_found_by_its_path(
    sharing: Client, store: ModelStore
) -> None:
    put_model(store, "hf.co/Ada/Model:Q4_K_M", (MediaType.MODEL, WEIGHTS))

    response = await sharing.get("/v2/ada/model/manifests/q4_k_m")

    assert await response.read() == store.read_manifest(ModelName.parse("hf.co/Ada/Model:Q4_K_M"))


async def test_what_a_manifest_answers(sharing: Client, store: ModelStore) -> None:
    digest = Digest.of(store.read_manifest(ModelName.parse("mine:v1")))

    for method in ("GET", "HEAD"):
        response = await sharing.request(method, "/v2/library/mine/manifests/v1")
        assert response.status == 200
        assert response.headers["Docker-Content-Digest"] == str(digest)
        assert response.content_type == "application/vnd.docker.distribution.manifest.v2+json"


async def test_a_blob_in_ranges(sharing: Client, store: ModelStore) -> None:
    digest = store.resolve(ModelName.parse("mine:v1")).manifest.layers[0].digest
    path = f"/v2/library/mine/blobs/{digest}"

    whole = await sharing.get(path)
    part = await sharing.get(path, headers={"Range": "bytes=1000-1999"})
    beyond = await sharing.get(path, headers={"Range": f"bytes={len(WEIGHTS)}-"})
    head = await sharing.head(path)

    assert (whole.status, await whole.read()) == (200, WEIGHTS)
    assert (part.status, await part.read()) == (206, WEIGHTS[1000:2000])
    assert part.headers["Content-Range"] == f"bytes 1000-1999/{len(WEIGHTS)}"
    assert beyond.status == 416
    assert (head.status, head.content_length) == (200, len(WEIGHTS))


@pytest.mark.parametrize(
    "path",
    [
        "/v2/library/none/manifests/v1",
        "/v2/library/mine/manifests/v2",
        "/v2/a b/mine/manifests/v1",
        f"/v2/library/mine/blobs/sha256:{'0' * 64}",
        "/v2/library/mine/blobs/sha256:..%2F..%2Fsecret",
        "/v2/library/mine/blobs/..%2F..%2F.olla%2Flock",
    ],
)
async def test_what_is_not_there(sharing: Client, path: str) -> None:
    response = await sharing.get(path)

    assert response.status == 404
    body: dict[str, Any] = await response.json()
    assert body["errors"][0]["code"] in {"MANIFEST_UNKNOWN", "BLOB_UNKNOWN"}


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/v2/library/mine/blobs/uploads/"), ("PUT", "/v2/library/mine/manifests/v1")],
)
async def test_nothing_can_be_written(sharing: Client, method: str, path: str) -> None:
    assert (await sharing.request(method, path, data=b"{}")).status in {404, 405}


@pytest.mark.parametrize("path", ["/v2/", "/v2/library/mine/manifests/v1"])
async def test_nothing_is_shared_unless_it_is_set(client: Client, path: str) -> None:
    response = await client.get(path)

    assert (response.status, await response.text()) == (404, "404 page not found")


async def test_a_push_of_nothing(client: Client) -> None:
    missing = await client.post("/api/push", json={"model": "none", "stream": False})

    assert await error_of(await client.post("/api/push", json={})) == (400, "model is required")
    assert await error_of(missing) == (404, "model 'none:latest' not found")


async def test_a_push_goes_where_it_is_told_to(
    client: Client, store: ModelStore, source: FakeSource
) -> None:
    add_model(store, "mine")
    there = {"model": "mine", "destination": "hf.co/me/tiny", "private": True, "stream": False}

    reply = await client.post("/api/push", json=there)
    plain = await client.post("/api/push", json={"model": "mine", "stream": False})

    assert (await reply.json(), await plain.json()) == ({"status": "success"},) * 2
    assert source.destinations == ["hf.co/me/tiny:latest", "mine:latest"]
    assert [options.private for options in source.options] == [True, False]
