"""Tags, show, ps, copy and delete over HTTP, on a real store."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from olla.names import ModelName
from olla.registry.manifest import Layer, Manifest, MediaType, format_manifest
from olla.registry.store import ModelStore
from olla.runner.pool import LoadedModel, LoadingModel
from olla.settings import Settings
from tests.server.conftest import Client, FakePool, add_model, error_of

DETAILS = {
    "parent_model": "",
    "format": "gguf",
    "family": "llama",
    "families": ["llama"],
    "parameter_size": "1.2M",
    "quantization_level": "Q4_0",
}
NOW = datetime(2026, 8, 22, 10, tzinfo=UTC)


async def _json(client: Client, path: str) -> Any:
    response = await client.get(path)
    assert response.status == 200
    assert response.headers["Content-Type"] == "application/json; charset=utf-8"
    return await response.json()


async def _show(client: Client, **fields: Any) -> dict[str, Any]:
    response = await client.post("/api/show", json=fields)
    assert response.status == 200
    reply: dict[str, Any] = await response.json()
    return reply


async def test_an_empty_store_has_an_empty_list(client: Client) -> None:
    assert await _json(client, "/api/tags") == {"models": []}


async def test_tags_lists_what_is_stored(client: Client, store: ModelStore) -> None:
    add_model(store, "me/Tiny")

    (entry,) = (await _json(client, "/api/tags"))["models"]

    model = store.resolve(ModelName.parse("me/Tiny"))
    assert datetime.fromisoformat(entry.pop("modified_at")) == model.modified_at
    assert entry == {
        "name": "me/Tiny:latest",
        "model": "me/Tiny:latest",
        "size": model.size_bytes,
        "digest": model.digest.hex,
        "details": {**DETAILS, "context_length": 2048, "embedding_length": 8},
        "capabilities": ["completion"],
    }


async def test_show_tells_what_the_weights_and_layers_say(
    client: Client, store: ModelStore
) -> None:
    add_model(
        store,
        "tiny",
        system=b"Be brief.",
        params=b'{"stop":["<x>"],"num_ctx":4096}',
        messages=b'[{"role":"user","content":"hi"}]',
        license=b"MIT",
    )

    reply = await _show(client, model="TINY")

    model = store.resolve(ModelName.parse("tiny"))
    assert datetime.fromisoformat(reply.pop("modified_at")) == model.modified_at
    modelfile = reply.pop("modelfile")
    assert "# FROM tiny:latest\n" in modelfile
    assert f"\nFROM {model.files['model.gguf']}\n" in modelfile
    assert "TEMPLATE" not in modelfile
    assert reply["model_info"]["general.architecture"] == "llama"
    assert reply["model_info"]["tokenizer.ggml.tokens"] is None
    assert reply.pop("model_info")["llama.context_length"] == 2048
    assert reply.pop("tensors")[0]["name"] == "token_embd.weight"
    assert reply == {
        "details": DETAILS,
        "template": "{% for m in messages %}{{ m.content }}{% endfor %}",
        "system": "Be brief.",
        "parameters": 'num_ctx                        4096\nstop                           "<x>"',
        "messages": [{"role": "user", "content": "hi"}],
        "license": "MIT",
        "capabilities": ["completion"],
    }


async def test_verbose_show_has_the_arrays(client: Client, store: ModelStore) -> None:
    add_model(store, "tiny")

    reply = await _show(client, name="tiny", verbose=True)

    assert reply["model_info"]["tokenizer.ggml.tokens"] == ["<s>", "a", "b"]


async def test_show_lays_system_and_options_over_the_modelfile(
    client: Client, store: ModelStore
) -> None:
    add_model(store, "tiny", system=b"old", params=b'{"top_k":1,"seed":7}')

    reply = await _show(client, model="tiny", system="new", options={"top_k": 2})

    lines = reply["modelfile"].splitlines()
    assert {"SYSTEM new", "PARAMETER seed 7", "PARAMETER top_k 2"} <= set(lines)


@pytest.mark.parametrize(
    ("template", "shown"),
    [
        (b"{{ .System }} {{ .Prompt", "{% for m in messages %}{{ m.content }}{% endfor %}"),
        (b"{{ .System }} {{ .Prompt }}", "{{ .System }} {{ .Prompt }}"),
        (b"{{ messages[0].content }}", "{{ messages[0].content }}"),
    ],
)
async def test_show_has_the_template_that_is_used_and_the_modelfile_the_stored_one(
    client: Client, store: ModelStore, template: bytes, shown: str
) -> None:
    add_model(store, "tiny", template=template)

    reply = await _show(client, model="tiny")

    assert reply["template"] == shown
    assert f"TEMPLATE {template.decode()}\n" in reply["modelfile"]


async def test_show_names_the_model_to_copilot(client: Client, store: ModelStore) -> None:
    add_model(store, "tiny")

    response = await client.post(
        "/api/show", json={"model": "Tiny"}, headers={"User-Agent": "GitHubCopilotChat/0.26"}
    )

    assert (await response.json())["model_info"]["general.basename"] == "Tiny"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, (400, "model is required")),
        ({"model": "none"}, (404, "model 'none:latest' not found")),
        ({"model": "a b"}, (400, "invalid model name")),
        (
            {"model": "x:cloud"},
            (403, "ollama cloud is disabled: remote model details are unavailable"),
        ),
    ],
)
async def test_show_of_what_is_not_there(
    client: Client, fields: dict[str, str], expected: tuple[int, str]
) -> None:
    assert await error_of(await client.post("/api/show", json=fields)) == expected


async def test_ps_lists_what_is_loaded_in_the_pools_order(
    client: Client, store: ModelStore, pool: FakePool
) -> None:
    add_model(store, "a")
    add_model(store, "b")
    a, b, gone = (ModelName.parse(text) for text in ("a", "b", "gone"))
    pool.loaded = (
        LoadedModel(b, None, 20, 20, 8192),
        LoadedModel(a, NOW + timedelta(seconds=1.5), 10, 0, 4096),
        LoadedModel(gone, NOW, 30, 30, 8192),
    )

    forever, timed = (await _json(client, "/api/ps"))["models"]

    digest = store.resolve(a).digest.hex
    assert datetime.fromisoformat(timed.pop("expires_at")) == NOW + timedelta(seconds=1.5)
    assert timed == {
        "name": "a:latest",
        "model": "a:latest",
        "size": 10,
        "digest": digest,
        "details": DETAILS,
        "size_vram": 0,
        "context_length": 4096,
    }
    assert (forever["name"], forever["size_vram"]) == ("b:latest", 20)
    assert datetime.fromisoformat(forever["expires_at"]).year > 2300


async def test_ps_tells_apart_what_is_still_being_loaded(client: Client, pool: FakePool) -> None:
    pool.on_their_way = (LoadingModel(ModelName.parse("a"), 45, 98),)

    assert await _json(client, "/api/ps") == {
        "models": [],
        "loading": [{"model": "a:latest", "completed": 45, "total": 98}],
    }


async def test_ps_passes_over_a_model_that_broke_in_the_store(
    client: Client, store: ModelStore, pool: FakePool, settings: Settings
) -> None:
    for name in ("a", "b"):
        add_model(store, name)
    a, b = ModelName.parse("a"), ModelName.parse("b")
    pool.loaded = (LoadedModel(a, None, 1, 0, 1), LoadedModel(b, None, 1, 0, 1))
    (settings.models / "manifests" / a.path).write_text("{")

    models = (await _json(client, "/api/ps"))["models"]

    assert [model["name"] for model in models] == ["b:latest"]


async def test_verbose_show_of_weights_that_are_gone_says_so(
    client: Client, store: ModelStore
) -> None:
    add_model(store, "a")
    store.resolve(ModelName.parse("a")).files["model.gguf"].unlink()

    response = await client.post("/api/show", json={"model": "a", "verbose": True})

    assert await error_of(response) == (
        500,
        "cannot read model a:latest: No such file or directory",
    )


async def test_nothing_loaded_is_an_empty_list(client: Client) -> None:
    assert await _json(client, "/api/ps") == {"models": []}


async def test_copy_gives_a_second_name(client: Client, store: ModelStore) -> None:
    add_model(store, "a")

    response = await client.post("/api/copy", json={"source": "A", "destination": "b:1"})

    assert (response.status, await response.read()) == (200, b"")
    assert {model.name.short for model in store.list()} == {"a:latest", "b:1"}


@pytest.mark.parametrize(
    ("origin", "destination", "expected"),
    [
        ("", "b", (400, 'source "" is invalid')),
        ("a b", "b", (400, 'source "a b" is invalid')),
        ("a", "-", (400, 'destination "-" is invalid')),
        ("none", "b", (404, 'model "none" not found')),
    ],
)
async def test_a_copy_that_cannot_be(
    client: Client, store: ModelStore, origin: str, destination: str, expected: tuple[int, str]
) -> None:
    add_model(store, "a")

    body = {"source": origin, "destination": destination}

    assert await error_of(await client.post("/api/copy", json=body)) == expected


async def test_delete_removes_and_unloads(
    client: Client, store: ModelStore, pool: FakePool
) -> None:
    add_model(store, "Tiny")

    response = await client.delete("/api/delete", data=json.dumps({"model": "tINY"}))

    assert (response.status, await response.read()) == (200, b"")
    assert store.list() == ()
    assert pool.unloaded == [ModelName.parse("Tiny")]


async def test_a_base_stays_as_long_as_adapters_lie_over_it(
    client: Client, store: ModelStore, pool: FakePool
) -> None:
    add_model(store, "tiny")
    for name in ("one", "two"):
        add_adapter(store, name, "tiny")

    refused = await client.delete("/api/delete", json={"model": "tiny"})
    removed = [await client.delete("/api/delete", json={"model": n}) for n in ("one", "two")]
    then = await client.delete("/api/delete", json={"model": "tiny"})

    text = "model 'tiny:latest' is the base of one:latest, two:latest: delete those first"
    assert await error_of(refused) == (400, text)
    assert [response.status for response in (*removed, then)] == [200, 200, 200]
    assert store.list() == ()


def add_adapter(store: ModelStore, name: str, base: str) -> None:
    """A model that is an adapter over another, as create makes it."""
    model = store.resolve(ModelName.parse(base))
    lora = Layer(MediaType.ADAPTER, store.blobs.put(b"lora"), 4)
    layers = (replace(layer, source=model.name.short) for layer in model.manifest.layers)
    manifest = Manifest(model.manifest.config, (*layers, lora))
    store.put(ModelName.parse(name), format_manifest(manifest))


async def test_show_tells_of_adapters_and_their_base(client: Client, store: ModelStore) -> None:
    add_model(store, "tiny")
    add_adapter(store, "one", "tiny")

    reply = await _show(client, model="one")

    assert reply["details"]["parent_model"] == "tiny:latest"
    assert reply["adapters"] == [{"format": "gguf", "scale": 1.0, "size": 4}]
    (adapter,) = store.resolve(ModelName.parse("one")).adapters
    assert f"\nADAPTER {adapter['adapter.gguf']}\n" in reply["modelfile"]


async def test_ps_names_the_base_of_an_adapter(
    client: Client, store: ModelStore, pool: FakePool
) -> None:
    add_model(store, "tiny")
    add_adapter(store, "one", "tiny")
    pool.loaded = tuple(
        LoadedModel(ModelName.parse(name), None, 10, 0, 4096) for name in ("one", "tiny")
    )

    adapter, base = (await (await client.get("/api/ps")).json())["models"]

    assert adapter["adapter_of"] == "tiny:latest"
    assert "adapter_of" not in base


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, (400, "model is required")),
        ({"name": "a b"}, (400, 'name "a b" is invalid')),
        ({"model": "none"}, (404, "model 'none' not found")),
    ],
)
async def test_a_delete_that_cannot_be(
    client: Client, pool: FakePool, fields: dict[str, str], expected: tuple[int, str]
) -> None:
    assert await error_of(await client.delete("/api/delete", json=fields)) == expected
    assert pool.unloaded == []
