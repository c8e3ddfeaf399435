"""olla's own routes about the store, and a model that is carried from one to another as a file."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp.test_utils import make_mocked_request

from olla.errors import ModelNotFound
from olla.names import ModelName
from olla.registry.digest import Digest
from olla.registry.manifest import CONFIG_TYPE, Layer, Manifest, MediaType, format_manifest
from olla.registry.store import ModelStore
from olla.server.app import create_app
from olla.server.handlers import store as handlers
from olla.server.services import Services
from olla.settings import Settings
from tests.server.conftest import Client, add_model, error_of, lines_of


async def test_du_tells_who_shares_what(client: Client, store: ModelStore) -> None:
    add_model(store, "a")
    add_model(store, "b", system=b"Be brief.")
    store.blobs.put(b"nobody's")

    usage = await (await client.get("/api/du")).json()

    freed = {model["model"]: model["freed"] for model in usage["models"]}
    assert freed == {"a:latest": 0, "b:latest": len(b"Be brief.")}
    assert all(blob["models"] == ["a:latest", "b:latest"] for blob in usage["shared"])
    shared = sum(blob["size"] for blob in usage["shared"])
    assert (usage["total"], usage["unused"]) == (shared + len(b"Be brief."), len(b"nobody's"))


async def test_verify_streams_and_names_what_is_broken(client: Client, store: ModelStore) -> None:
    add_model(store, "a")
    add_model(store, "b", system=b"Be brief.")
    store.blobs.path(Digest.of(b"Be brief.")).write_bytes(b"Be rapid.")

    whole = await lines_of(await client.post("/api/verify", json={"models": ["A"]}))
    lines = await lines_of(await client.post("/api/verify"))
    at_once = await client.post("/api/verify", json={"stream": False})

    assert whole[-1] == {"status": "success"}
    assert lines[-2]["status"] == "b:latest is broken: its system has other bytes than it should"
    assert lines[-1]["error"].startswith("1 of 2 models is broken: remove with olla rm b:latest")
    assert (await error_of(at_once))[0] == 500


async def test_verify_of_a_model_that_is_not_there(client: Client) -> None:
    response = await client.post("/api/verify", json={"models": ["none"], "stream": False})

    assert await error_of(response) == (404, "model 'none:latest' not found")


async def test_gc_says_and_then_does(client: Client, store: ModelStore) -> None:
    digest = store.blobs.put(b"nobody's")
    removed = {"removed": [{"file": digest.file_name, "size": 8}], "freed": 8}

    assert await (await client.post("/api/gc")).json() == {"removed": [], "freed": 0}
    dry = await client.post("/api/gc", json={"all": True, "dry_run": True})
    assert await dry.json() == removed
    assert store.blobs.has(digest)
    assert await (await client.post("/api/gc", json={"all": True})).json() == removed
    assert not store.blobs.has(digest)


async def test_an_exported_model_is_the_same_after_its_import(
    client: Client, store: ModelStore
) -> None:
    add_model(store, "me/tiny:v1", system=b"Be brief.")
    before = store.resolve(ModelName.parse("me/tiny:v1"))

    response = await client.get("/api/export", params={"model": "ME/tiny:v1"})
    data = await response.read()
    store.delete(before.name)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        files = {entry.name: tar.extractfile(entry) for entry in tar}
        contents = {name: file.read() for name, file in files.items() if file}
    for name, blob in contents.items():
        if name.startswith("blobs/"):
            await client.post(f"/api/blobs/sha256:{name.rpartition('/')[2]}", data=blob)
    (entry,) = json.loads(contents["index.json"])["manifests"]
    manifest = contents[f"blobs/sha256/{entry['digest'].partition(':')[2]}"].decode()
    imported = await client.post("/api/import", json={"model": "again", "manifest": manifest})

    assert response.content_length == len(data)
    assert await imported.json() == {"status": "success", "model": "again:latest"}
    after = store.resolve(ModelName.parse("again"))
    assert (after.digest, after.system) == (before.digest, "Be brief.")


async def test_a_model_that_cannot_be_exported(client: Client, store: ModelStore) -> None:
    add_model(store, "m", system=b"Be brief.")
    store.blobs.remove(Digest.of(b"Be brief."))

    gone = await client.get("/api/export", params={"model": "none"})
    unnamed = await client.get("/api/export")
    broken = await client.get("/api/export", params={"model": "m"})

    assert await error_of(gone) == (404, "model 'none:latest' not found")
    assert await error_of(unnamed) == (400, "invalid model name")
    assert (await error_of(broken))[1].startswith("model m:latest is broken: blob sha256:")


@pytest.mark.parametrize("is_shared", [False, True])
async def test_other_machines_export_only_what_is_shared(
    settings: Settings, services: Services, is_shared: bool
) -> None:
    shared = replace(services, settings=replace(settings, share=is_shared))
    app = create_app(shared.settings, shared)
    request = make_mocked_request("GET", "/api/export?model=none", app=app)

    if is_shared:
        with pytest.raises(ModelNotFound):
            await handlers.export(request.clone(remote="192.0.2.7"))
    else:
        assert (await handlers.export(request.clone(remote="192.0.2.7"))).status == 403


def manifest_of(store: ModelStore, media_type: str, data: bytes, name: str = "") -> str:
    layer = Layer(media_type, store.blobs.put(data), len(data), name)
    config = Layer(CONFIG_TYPE, store.blobs.put(b"{}"), 2)
    return format_manifest(Manifest(config, (layer,))).decode()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({}, "model and manifest are required"),
        ({"model": "m", "manifest": "{"}, "broken manifest: it is not JSON"),
        ({"model": "m", "manifest": "[" * 10**5}, "broken manifest: it is not JSON"),
        ({"model": "m", "manifest": "{}"}, "broken manifest: a layer is not a JSON object"),
        ({"model": "../m", "manifest": "{}"}, "invalid model name"),
        ({"model": 1, "manifest": "{}"}, "cannot unmarshal number"),
    ],
)
async def test_an_import_that_cannot_be(
    client: Client, body: dict[str, object], reason: str
) -> None:
    status, text = await error_of(await client.post("/api/import", json=body))

    assert status == 400
    assert reason in text


async def test_a_manifest_that_makes_no_model(client: Client, store: ModelStore) -> None:
    missing = format_manifest(
        Manifest(Layer(CONFIG_TYPE, store.blobs.put(b"{}"), 2),
                 (Layer(MediaType.SYSTEM, Digest("a" * 64), 1),))
    ).decode()  # fmt: skip
    empty = format_manifest(Manifest(Layer(CONFIG_TYPE, store.blobs.put(b"{}"), 2))).decode()
    outside = manifest_of(store, MediaType.FILE, b"x", "../../evil")
    params = manifest_of(store, MediaType.PARAMS, b"[]")
    for manifest in (missing, empty, outside, params):
        response = await client.post("/api/import", json={"model": "m", "manifest": manifest})
        status, text = await error_of(response)
        assert (status, text.startswith("the model cannot be imported: ")) == (400, True)

    assert store.list() == ()


async def test_a_manifest_that_lies_about_a_size(client: Client, store: ModelStore) -> None:
    manifest = manifest_of(store, MediaType.SYSTEM, b"Be brief.").replace('"size":9', '"size":8')

    response = await client.post("/api/import", json={"model": "m", "manifest": manifest})

    assert (await error_of(response))[0] in {400, 500}
    assert store.list() == ()


async def test_a_blob_that_vanishes_while_it_is_exported_cuts_the_reply(
    client: Client, store: ModelStore, tmp_path: Path
) -> None:
    add_model(store, "m", system=b"Be brief.")
    store.blobs.path(Digest.of(b"Be brief.")).write_bytes(b"Be")

    response = await client.get("/api/export", params={"model": "m"})

    with pytest.raises(Exception, match=r"payload|closed|disconnected|Connection"):
        await response.read()
