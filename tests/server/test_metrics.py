"""What is counted, and that labels stay few."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import cast

import pytest
from prometheus_client.parser import text_string_to_metric_families

from olla.caller import Caller
from olla.names import ModelName
from olla.registry.store import ModelStore
from olla.requests import (
    PLAIN_TRANSFER,
    ChatChunk,
    DoneReason,
    Progress,
    Timings,
    TransferOptions,
)
from olla.runner.pool import LoadedModel, RunnerPool, Waiting
from olla.runner.protocol import Stepped
from olla.runner.slots import WaitState
from olla.server.metered import MeteredAnswers, metered_pull
from olla.server.metrics import MAX_MODELS, OTHER, Metrics, PoolCollector
from olla.server.services import Services
from olla.settings import Settings
from tests.server.conftest import Client, FakeInference, FakePool

M = ModelName.parse("m")
CHUNKS = [
    ChatChunk(content="Hel"),
    ChatChunk(content="lo"),
    ChatChunk(
        done_reason=DoneReason.STOP,
        timings=Timings(
            num_prompt_tokens=7,
            num_cached_tokens=3,
            num_tokens=2,
            num_drafted_tokens=5,
            num_accepted_tokens=1,
        ),
    ),
]


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


async def test_requests_are_counted_by_route_method_and_status(
    client: Client, services: Services
) -> None:
    await client.get("/api/tags")
    await client.post("/api/show", json={"model": "none"})
    await client.get("/v1/models/none")
    for number in range(5):
        await client.get(f"/nothing/{number}")

    found = {
        tuple(sample.labels.values()): sample.value
        for family in services.metrics.registry.collect()
        for sample in family.samples
        if sample.name == "olla_requests_total"
    }
    assert found == {
        ("GET", "/api/tags", "200"): 1,
        ("POST", "/api/show", "404"): 1,
        ("GET", "/v1/models/{model}", "404"): 1,
        ("GET", OTHER, "404"): 5,
    }


async def test_the_page_is_in_prometheus_s_format(client: Client) -> None:
    await client.get("/api/tags")
    response = await client.get("/metrics")
    families = {found.name for found in text_string_to_metric_families(await response.text())}

    assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert {"olla_requests", "olla_step_seconds", "process_open_fds"} <= families


async def test_replies_are_counted_as_they_pass(
    inference: FakeInference, settings: Settings
) -> None:
    from olla.requests import ChatRequest

    metrics = Metrics()
    inference.script = list(CHUNKS)
    answers = MeteredAnswers(inference, metrics)
    passed = [chunk async for chunk in answers.chat(ChatRequest("M"))]

    assert passed == CHUNKS
    assert value(metrics, "olla_prompt_tokens_total", model="M:latest") == 7
    assert value(metrics, "olla_cached_tokens_total", model="M:latest") == 3
    assert value(metrics, "olla_reply_tokens_total", model="M:latest") == 2
    assert value(metrics, "olla_drafted_tokens_total", model="M:latest") == 5
    assert value(metrics, "olla_accepted_tokens_total", model="M:latest") == 1
    assert value(metrics, "olla_time_to_first_token_seconds_count", model="M:latest") == 1


async def test_a_pull_counts_what_it_brought(store: ModelStore) -> None:
    async def pull(
        name: ModelName, store: ModelStore, options: TransferOptions
    ) -> AsyncGenerator[Progress, None]:
        yield Progress("pulling manifest")
        yield Progress("pulling a", "a", 10, 10)  # it was there
        for done in (0, 40, 100):
            yield Progress("pulling b", "b", 100, done)

    metrics = Metrics()
    _ = [step async for step in metered_pull(pull, metrics)(M, store, PLAIN_TRANSFER)]

    assert value(metrics, "olla_pulled_bytes_total") == 100


def test_steps_and_loads_are_what_runners_tell() -> None:
    metrics = Metrics()
    metrics.loaded(M, 2.0)
    metrics.load_failed(M)
    metrics.stepped(M, Stepped([0.01, 0.02, 9.0], 16, 1024))

    assert value(metrics, "olla_loads_total", model="m:latest", result="success") == 1
    assert value(metrics, "olla_loads_total", model="m:latest", result="failure") == 1
    assert value(metrics, "olla_load_seconds_sum", model="m:latest") == 2
    assert value(metrics, "olla_step_seconds_count", model="m:latest") == 3
    assert value(metrics, "olla_step_seconds_bucket", model="m:latest", le="0.02") == 2


def test_the_pool_is_read_when_it_is_asked_for() -> None:
    pool, metrics = FakePool(), Metrics()
    PoolCollector(cast(RunnerPool, pool), metrics)
    assert value(metrics, "olla_queue", state="queued") == 0

    metrics.stepped(M, Stepped([], 16, 1024))
    pool.loaded = (LoadedModel(M, None, 1000, 600, 4096),)
    pool.waiting = (Waiting(Caller(), M, WaitState.QUEUED, 1),) * 3

    assert value(metrics, "olla_queue", state="queued") == 3
    assert value(metrics, "olla_model_bytes", model="m:latest") == 1000
    assert value(metrics, "olla_model_gpu_bytes", model="m:latest") == 600
    assert value(metrics, "olla_cache_used_tokens", model="m:latest") == 16


def test_models_past_a_number_share_a_label() -> None:
    metrics = Metrics()
    labels = {metrics.label(f"model{number}") for number in range(2 * MAX_MODELS)}

    assert len(labels) == MAX_MODELS + 1
    assert metrics.label("model0") == "model0"


@pytest.mark.parametrize("text", ["", "no/such/na/me/"])
async def test_what_is_no_name_is_no_label(inference: FakeInference, text: str) -> None:
    from olla.requests import ChatRequest

    metrics = Metrics()
    inference.script = list(CHUNKS)
    _ = [chunk async for chunk in MeteredAnswers(inference, metrics).chat(ChatRequest(text))]

    assert value(metrics, "olla_reply_tokens_total", model=OTHER) == 2
