"""The routes of vectors and scores, over fake runners: statuses, texts, shapes."""

from __future__ import annotations

from typing import Any

import pytest

from olla.registry.store import ModelStore
from olla.runner.pool import RunnerPool
from olla.settings import Settings
from tests.fakes import FakeSpawn
from tests.server.conftest import Client, add_model, error_of, until


@pytest.fixture
def spawn() -> FakeSpawn:
    return FakeSpawn()


@pytest.fixture
def pool(settings: Settings, spawn: FakeSpawn) -> RunnerPool:
    return RunnerPool(settings, spawn)


@pytest.fixture(autouse=True)
def model(store: ModelStore) -> None:
    add_model(store, "m")


async def ask(client: Client, path: str, **body: Any) -> tuple[int, Any]:
    response = await client.post(path, json=body)
    return response.status, await response.json()


async def test_embed_echoes_the_name_and_counts_tokens(client: Client) -> None:
    status, reply = await ask(client, "/api/embed", model="M:latest", input=["a", "bb"])

    assert status == 200
    assert (reply["model"], reply["embeddings"]) == ("M:latest", [[1, 1], [2, 1]])
    assert reply["prompt_eval_count"] == 3
    assert reply["total_duration"] > 0 and reply["load_duration"] > 0


async def test_embeddings_gives_one_vector_that_is_neither_cut_nor_made_unit(
    client: Client, spawn: FakeSpawn
) -> None:
    assert await ask(client, "/api/embeddings", model="m", prompt="abc") == (
        200,
        {"embedding": [3, 1]},
    )
    (message,) = spawn.runners[0].embeds
    assert (message.truncate, message.normalize) == (False, False)


@pytest.mark.parametrize(
    ("path", "empty"),
    [("/api/embed", {"model": "m", "embeddings": []}), ("/api/embeddings", {"embedding": []})],
)
async def test_nothing_to_embed_loads_the_model(
    client: Client, pool: RunnerPool, path: str, empty: dict[str, Any]
) -> None:
    status, reply = await ask(client, path, model="m")

    assert status == 200
    assert reply.items() >= empty.items()
    assert [loaded.name.short for loaded in pool.list()] == ["m:latest"]


async def test_openais_embeddings_come_as_numbers_and_as_base64(client: Client) -> None:
    status, reply = await ask(client, "/v1/embeddings", model="m", input=["a", [1, 2]])
    _, packed = await ask(client, "/v1/embeddings", model="m", input="a", encoding_format="base64")

    assert status == 200
    assert [entry["embedding"] for entry in reply["data"]] == [[1, 1], [2, 1]]
    assert reply["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    assert packed["data"][0]["embedding"] == "AACAPwAAgD8="


@pytest.mark.parametrize("path", ["/api/rerank", "/v1/rerank"])
async def test_rerank_orders_documents(client: Client, path: str) -> None:
    status, reply = await ask(client, path, model="m", query="q", documents=["a", "bb"], top_n=1)

    assert status == 200
    assert reply["model"] == "m"
    assert reply["results"] == [{"index": 1, "relevance_score": 0.2}]


ROUTES: dict[str, dict[str, Any]] = {
    "/api/embed": {"input": "a"},
    "/api/embeddings": {"prompt": "a"},
    "/api/rerank": {"query": "q", "documents": ["a"]},
}
UNKNOWN = 'model "x" not found, try pulling it first'


@pytest.mark.parametrize(
    ("path", "model", "status", "text"),
    [
        ("/api/embed", "", 404, "model '' not found"),
        ("/api/embed", "x", 404, UNKNOWN),
        ("/api/embed", "a b", 400, "invalid model name"),
        ("/api/embeddings", "", 400, "model is required"),
        ("/api/embeddings", "x", 404, UNKNOWN),
        ("/api/embeddings", "a b", 400, "invalid model name"),
        ("/api/rerank", "", 404, "model '' not found"),
        ("/api/rerank", "x", 404, UNKNOWN),
    ],
)
async def test_a_model_that_is_not_there(
    client: Client, path: str, model: str, status: int, text: str
) -> None:
    response = await client.post(path, json={"model": model, **ROUTES[path]})

    assert await error_of(response) == (status, text)


async def test_a_wrong_input_is_told_before_a_wrong_model(client: Client) -> None:
    response = await client.post("/api/embed", json={"model": "x", "input": 3})

    assert await error_of(response) == (400, "invalid input type")


async def test_a_client_that_leaves_cancels_its_vectors(client: Client, spawn: FakeSpawn) -> None:
    await ask(client, "/api/embed", model="m")
    (runner,) = spawn.runners
    runner.hold()
    with pytest.raises(TimeoutError):
        await client.post("/api/embed", json={"model": "m", "input": ["a"]}, timeout=0.3)  # type: ignore[arg-type]

    await until(lambda: runner.num_cancelled == 1)
