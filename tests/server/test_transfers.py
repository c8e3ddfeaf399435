"""Pull and create over HTTP: progress, errors at their places, and clients that leave."""

from __future__ import annotations

from typing import Any

import pytest

from olla.errors import SourceUnreachable
from olla.names import ModelName
from olla.quantization import GGUF_TYPES
from olla.registry.digest import Digest
from olla.registry.store import ModelStore
from tests.formats.gguf_writer import tiny_model
from tests.server.conftest import Client, FakeSource, add_model, error_of, lines_of

TYPES = ", ".join((*GGUF_TYPES, "INT4", "NF4", "INT8"))
MISSING = "pull model manifest: file does not exist"
GGUF = tiny_model().to_bytes()


async def test_pull_streams_its_progress(
    client: Client, store: ModelStore, source: FakeSource
) -> None:
    source.models = {"tiny:latest"}

    lines = await lines_of(await client.post("/api/pull", json={"model": "tiny"}))

    assert lines == [{"status": "pulling manifest"}, {"status": "success"}]
    assert store.resolve(ModelName.parse("tiny"))


async def test_pull_without_streaming_answers_the_last_line(
    client: Client, source: FakeSource
) -> None:
    source.models = {"tiny:latest"}

    response = await client.post("/api/pull", json={"name": "tiny", "stream": False})

    assert response.headers["Content-Type"] == "application/json"
    assert await response.json() == {"status": "success"}


async def test_a_model_that_no_source_has(client: Client) -> None:
    streamed = await client.post("/api/pull", json={"model": "none"})
    whole = await client.post("/api/pull", json={"model": "none", "stream": False})

    assert await lines_of(streamed) == [{"status": "pulling manifest"}, {"error": MISSING}]
    assert await error_of(whole) == (500, MISSING)


async def test_pull_keeps_the_spelling_of_the_store(
    client: Client, store: ModelStore, source: FakeSource
) -> None:
    add_model(store, "Tiny")
    source.models = {"Tiny:latest"}

    lines = await lines_of(await client.post("/api/pull", json={"model": "TINY"}))

    assert lines[-1] == {"status": "success"}
    assert [model.name.short for model in store.list()] == ["Tiny:latest"]


@pytest.mark.parametrize(
    ("path", "fields", "expected"),
    [
        ("/api/pull", {}, (400, "invalid model name")),
        ("/api/pull", {"model": "a b"}, (400, "invalid model name")),
        (
            "/api/pull",
            {"model": "m:cloud"},
            (403, "ollama cloud is disabled: remote model is unavailable"),
        ),
        ("/api/create", {"from": "a"}, (400, "invalid model name")),
        ("/api/create", {"model": "m", "from": "a b"}, (400, "invalid model name")),
        (
            "/api/create",
            {"model": "m", "from": "b:cloud"},
            (403, "ollama cloud is disabled: remote model is unavailable"),
        ),
        (
            "/api/create",
            {"model": "m", "from": "none", "quantize": "q9"},
            (400, f"unsupported quantization type q9 - supported types are {TYPES}"),
        ),
        (
            "/api/create",
            {"model": "m", "draft_files": {"x.gguf": "y"}, "draft_quantize": "nf4"},
            (400, "a DRAFT model is a GGUF file, which has no type NF4: take Q8_0 or Q4_K_M"),
        ),
        ("/api/create", {"model": "m"}, (400, "neither 'from' or 'files' was specified")),
        (
            "/api/create",
            {"model": "m", "files": {"../x": "y"}},
            (400, "file path must be relative"),
        ),
        ("/api/create", {"model": "m", "files": {"x": "y"}}, (400, "invalid digest format")),
    ],
)
async def test_a_transfer_that_cannot_be(
    client: Client, path: str, fields: dict[str, Any], expected: tuple[int, str]
) -> None:
    assert await error_of(await client.post(path, json=fields)) == expected


async def test_create_from_an_uploaded_file(client: Client, store: ModelStore) -> None:
    digest = Digest.of(GGUF)
    await client.post(f"/api/blobs/{digest}", data=GGUF)

    body = {"model": "mine", "files": {"tiny.gguf": str(digest)}, "system": "Be brief."}
    lines = await lines_of(await client.post("/api/create", json=body))

    assert lines[0] == {"status": "parsing GGUF"}
    assert lines[-2:] == [{"status": "writing manifest"}, {"status": "success"}]
    model = store.resolve(ModelName.parse("mine"))
    assert (model.weights_key, model.system) == (str(digest), "Be brief.")


async def test_create_from_a_stored_model(client: Client, store: ModelStore) -> None:
    add_model(store, "base")

    response = await client.post(
        "/api/create", json={"model": "mine", "from": "BASE", "system": "s", "stream": False}
    )

    assert await response.json() == {"status": "success"}
    assert store.resolve(ModelName.parse("mine")).system == "s"


async def test_create_keeps_the_spelling_of_the_store(client: Client, store: ModelStore) -> None:
    add_model(store, "Mine")

    body = {"model": "MINE", "from": "mine", "system": "s"}
    await lines_of(await client.post("/api/create", json=body))

    (model,) = store.list()
    assert (model.name.short, model.system) == ("Mine:latest", "s")


async def test_create_pulls_a_base_that_is_not_there(
    client: Client, store: ModelStore, source: FakeSource
) -> None:
    source.models = {"base:latest"}

    lines = await lines_of(await client.post("/api/create", json={"model": "mine", "from": "base"}))

    statuses = [line["status"] for line in lines]
    assert statuses[:2] == ["pulling manifest", "success"]
    assert statuses[-2:] == ["writing manifest", "success"]
    assert {model.name.short for model in store.list()} == {"base:latest", "mine:latest"}


async def test_create_stops_where_its_base_cannot_be_pulled(
    client: Client, store: ModelStore
) -> None:
    response = await client.post("/api/create", json={"model": "mine", "from": "none"})

    assert await lines_of(response) == [{"status": "pulling manifest"}, {"error": MISSING}]
    assert store.list() == ()


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [("template", "{% if %}", "template error: "), ("parser", "x", 'unknown parser "x"; PARSER')],
)
async def test_template_and_parser_are_checked_before_anything_is_pulled(
    client: Client, source: FakeSource, field: str, value: str, error: str
) -> None:
    body = {"model": "mine", "from": "base", field: value}

    status, text = await error_of(await client.post("/api/create", json=body))

    assert status == 400
    assert text.startswith(error)
    assert not source.closed.is_set()


@pytest.mark.parametrize("level", ["INFO", "DEBUG"])
async def test_a_network_that_is_down_is_logged_in_a_line(
    client: Client,
    source: FakeSource,
    caplog: pytest.LogCaptureFixture,
    level: str,
) -> None:
    source.failure = SourceUnreachable("no such host")
    source.failure.__cause__ = OSError("the cause")
    caplog.set_level(level)

    await client.post("/api/pull", json={"model": "m"})

    assert "no such host" in caplog.text
    assert ("the cause" in caplog.text) == (level == "DEBUG")
