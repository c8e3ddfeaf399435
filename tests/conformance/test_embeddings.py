"""The official clients get the vectors of the real all-MiniLM-L6-v2 from a started daemon."""

from __future__ import annotations

import base64
import http.client
import json
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import ollama
import openai
import pytest

from tests.conformance.daemon import Daemon
from tests.conformance.embedding_models import reference_counts, reference_vectors

pytestmark = pytest.mark.weights

TEXTS = (
    "Why is the sky blue?",
    "The weather is lovely today.",
    "It's so sunny outside!",
    "He drove to the stadium.",
    "Na\u00efve caf\u00e9, \u6771\u4eac \U0001f600",
    "word " * 400,
)


@pytest.fixture(scope="module")
def wanted() -> np.ndarray:
    return reference_vectors(TEXTS)


@pytest.fixture
def openai_client(daemon: Daemon) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="any") as client:
        yield client


def test_ollamas_client_gets_transformers_vectors(
    client: ollama.Client, minilm: str, wanted: np.ndarray
) -> None:
    reply = client.embed(minilm, list(TEXTS))

    np.testing.assert_allclose(reply.embeddings, wanted, atol=1e-5)
    assert reply.model == minilm
    assert reply.prompt_eval_count == sum(reference_counts(TEXTS))
    assert reply.total_duration and reply.load_duration


def test_a_vector_does_not_depend_on_its_batch(client: ollama.Client, minilm: str) -> None:
    alone = [client.embed(minilm, text).embeddings[0] for text in TEXTS]
    reversed_ = client.embed(minilm, [*TEXTS[::-1], *TEXTS[:3]]).embeddings

    np.testing.assert_allclose(reversed_, [*alone[::-1], *alone[:3]], atol=1e-5)


def test_the_older_call_gives_the_vector_as_pooled(
    client: ollama.Client, minilm: str, wanted: np.ndarray
) -> None:
    vector = np.array(client.embeddings(minilm, TEXTS[0]).embedding)

    norm = np.linalg.norm(vector)
    assert len(vector) == 384 and abs(norm - 1) > 0.1
    np.testing.assert_allclose(vector / norm, wanted[0], atol=1e-5)


def test_dimensions_shorten_vectors(client: ollama.Client, minilm: str, wanted: np.ndarray) -> None:
    (vector,) = client.embed(minilm, TEXTS[0], dimensions=64).embeddings

    prefix = wanted[0][:64]
    np.testing.assert_allclose(vector, prefix / np.linalg.norm(prefix), atol=1e-5)


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_openais_client_gets_the_same_vectors(
    openai_client: openai.OpenAI, minilm: str, wanted: np.ndarray, encoding: str
) -> None:
    reply = openai_client.embeddings.create(
        model=minilm,
        input=list(TEXTS[:3]),
        encoding_format=encoding,  # type: ignore[arg-type]
    )
    # Without a format the client asks for base64 and unpacks it.
    plain = openai_client.embeddings.create(model=minilm, input=[101, 2339, 2003, 102])

    rows: list[Any] = [entry.embedding for entry in reply.data]
    if encoding == "base64":
        rows = [np.frombuffer(base64.b64decode(row), "<f4") for row in rows]
    np.testing.assert_allclose(rows, wanted[:3], atol=1e-5)
    assert reply.model == minilm
    assert reply.usage.prompt_tokens == sum(reference_counts(TEXTS[:3]))
    assert len(plain.data[0].embedding) == 384
    assert plain.usage.total_tokens == 4


def test_a_thousand_inputs_come_back_in_order(client: ollama.Client, minilm: str) -> None:
    texts = [f"{'very ' * (number % 7)}number {number}" for number in range(1000)]

    rows = np.array(client.embed(minilm, texts).embeddings)

    assert rows.shape == (1000, 384)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-5)
    for place in (0, 499, 999):
        (alone,) = client.embed(minilm, texts[place]).embeddings
        np.testing.assert_allclose(rows[place], alone, atol=1e-5)


def test_documents_are_ordered_by_what_they_say(daemon: Daemon, minilm: str) -> None:
    documents = ["I like cheese.", "Paris is the capital of France.", "Berlin is in Germany."]
    answer = daemon.ask(
        "POST",
        "/v1/rerank",
        {"model": minilm, "query": "What is France's capital?", "documents": documents},
    )

    assert answer.status == 200
    assert [result["index"] for result in answer.json["results"]] == [1, 2, 0]


def test_what_the_model_does_is_told(client: ollama.Client, minilm: str) -> None:
    assert client.show(minilm).capabilities == ["embedding"]
    with pytest.raises(ollama.ResponseError) as caught:
        client.generate(minilm, "hi")
    assert (caught.value.status_code, caught.value.error) == (
        400,
        f'"{minilm}" does not support generate',
    )


@pytest.mark.parametrize(
    ("path", "body", "status", "text"),
    [
        ("embed", {"input": 7}, 400, "invalid input type"),
        (
            "embed",
            {"input": ["a", TEXTS[-1]], "truncate": False},
            400,
            "the input length exceeds the context length",
        ),
        (
            "embed",
            {"input": "a", "options": {"num_ctx": 2}},
            400,
            "input after truncation exceeds maximum context length",
        ),
        (
            "embeddings",
            {"prompt": TEXTS[-1]},
            500,
            "the input length exceeds the context length",
        ),
    ],
)
def test_a_bad_input_is_told(
    daemon: Daemon, minilm: str, path: str, body: dict[str, object], status: int, text: str
) -> None:
    answer = daemon.ask("POST", f"/api/{path}", {"model": minilm, **body})

    assert (answer.status, answer.error) == (status, text)


def test_a_client_that_leaves_frees_the_runner(daemon: Daemon, minilm: str) -> None:
    body = json.dumps({"model": minilm, "input": ["word " * 250] * 2000})
    connection = http.client.HTTPConnection("127.0.0.1", daemon.port)
    connection.request("POST", "/api/embed", body)
    time.sleep(0.5)
    connection.close()

    started = time.monotonic()
    answer = daemon.ask("POST", "/api/embed", {"model": minilm, "input": "a"})

    assert answer.status == 200
    assert time.monotonic() - started < 30  # all of it would take minutes


def test_a_model_that_writes_embeds_too(client: ollama.Client) -> None:
    rows = np.array(
        client.embed("smollm2:135m", ["cats purr", "dogs bark", "cats purr"]).embeddings
    )

    assert rows.shape == (3, 576)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-5)
    np.testing.assert_allclose(rows[0], rows[2], atol=1e-5)
    assert not np.allclose(rows[0], rows[1], atol=1e-2)
