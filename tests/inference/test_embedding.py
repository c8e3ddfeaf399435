"""The path of vectors and scores over a fake runner."""

from __future__ import annotations

import asyncio
import struct
from dataclasses import replace

import pytest

from olla.errors import ModelNotFound, RunnerDied
from olla.inference.embedding import Embedding
from olla.options import Options
from olla.registry.model import Capability
from olla.requests import EmbedRequest, Rank, RerankRequest
from olla.runner.pool import RunnerPool
from tests.fakes import FakeSpawn
from tests.inference.conftest import SETTINGS, FakeStore


@pytest.fixture
def embedding(store: FakeStore, pool: RunnerPool) -> Embedding:
    return Embedding(store, pool, SETTINGS)  # type: ignore[arg-type]


async def test_vectors_come_in_the_order_of_their_inputs(
    embedding: Embedding, spawn: FakeSpawn
) -> None:
    reply = await embedding.embed(EmbedRequest("m", ("a", "bbb", (1, 2))))

    assert [struct.unpack("<2f", v) for v in reply.vectors] == [(1, 1), (3, 1), (2, 1)]
    assert reply.timings.num_prompt_tokens == 6
    assert reply.timings.total_ns >= reply.timings.load_ns > 0
    assert spawn.runners[0].embeds[0].inputs == ["a", "bbb", [1, 2]]


async def test_any_model_embeds(embedding: Embedding, store: FakeStore) -> None:
    for capability in (Capability.COMPLETION, Capability.EMBEDDING):
        store.model = replace(store.model, capabilities=(capability,))
        assert len((await embedding.embed(EmbedRequest("m", ("a",)))).vectors) == 1


async def test_without_inputs_the_model_is_loaded_only(
    embedding: Embedding, spawn: FakeSpawn
) -> None:
    reply = await embedding.embed(EmbedRequest("m"))

    assert reply.vectors == ()
    assert (len(spawn.runners), spawn.runners[0].embeds) == (1, [])


@pytest.mark.parametrize(("wanted", "num_ctx"), [(None, 4096), (1, 1), (100, 100), (9999, 8192)])
async def test_the_window_is_what_is_asked_for_up_to_the_models(
    embedding: Embedding, spawn: FakeSpawn, wanted: int | None, num_ctx: int
) -> None:
    request = EmbedRequest("m", ("a",), truncate=False, dimensions=3, normalize=False)
    await embedding.embed(replace(request, options=Options(num_ctx=wanted)))

    (message,) = spawn.runners[0].embeds
    assert (message.num_ctx, message.truncate) == (num_ctx, False)
    assert (message.dimensions, message.normalize) == (3, False)


async def test_the_best_documents_come_first(embedding: Embedding) -> None:
    documents = ("bb", "a", "cccc", "dd")

    every = await embedding.rerank(RerankRequest("m", "q", documents))
    best = await embedding.rerank(RerankRequest("m", "q", documents, top_n=1))

    assert [rank.index for rank in every.ranks] == [2, 0, 3, 1]
    assert best.ranks == (Rank(2, 0.4),)
    assert every.timings.num_prompt_tokens == 7


async def test_an_unknown_model_is_to_be_pulled_first(embedding: Embedding) -> None:
    with pytest.raises(ModelNotFound) as caught:
        await embedding.embed(EmbedRequest("Other", ("a",)))

    assert str(caught.value) == 'model "Other" not found, try pulling it first'


async def test_a_client_that_leaves_cancels_and_releases(
    embedding: Embedding, spawn: FakeSpawn, pool: RunnerPool
) -> None:
    await embedding.embed(EmbedRequest("m"))
    (runner,) = spawn.runners
    runner.hold()
    task = asyncio.create_task(embedding.embed(EmbedRequest("m", ("a", "b"), keep_alive_s=0)))
    while not runner.embeds:  # noqa: ASYNC110 - the fake sets no event
        await asyncio.sleep(0)

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert runner.num_cancelled == 1
    assert pool.list() == ()


async def test_a_runner_that_dies_is_said_to(embedding: Embedding, spawn: FakeSpawn) -> None:
    await embedding.embed(EmbedRequest("m"))
    spawn.runners[0].hold()
    task = asyncio.create_task(embedding.embed(EmbedRequest("m", ("a",))))
    while not spawn.runners[0].embeds:  # noqa: ASYNC110 - the fake sets no event
        await asyncio.sleep(0)
    spawn.runners[0].die()

    with pytest.raises(RunnerDied, match="has unexpectedly stopped"):
        await task
