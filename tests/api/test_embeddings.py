"""Requests for vectors and scores as they are read, and the replies as they are written."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable
from typing import Any

import pytest

from olla.api.embeddings import (
    AskedRerank,
    embed_from_json,
    embed_to_json,
    embeddings_from_json,
    embeddings_to_json,
    openai_embeddings_from_json,
    openai_embeddings_to_json,
    rerank_from_json,
    rerank_to_json,
)
from olla.errors import BadInput
from olla.requests import EmbedReply, Rank, RerankReply, RerankRequest, Timings

REPLY = EmbedReply(
    (struct.pack("<2f", 0.5, -2), struct.pack("<2f", 1, 0)),
    Timings(total_ns=9, load_ns=4, num_prompt_tokens=7),
)


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "m", **fields}).encode()


@pytest.mark.parametrize(
    ("value", "inputs"),
    [("a", ("a",)), (["a", ""], ("a", "")), ("", ()), ([], ()), (None, ())],
)
def test_embed_takes_a_text_or_a_list_of_texts(value: object, inputs: tuple[str, ...]) -> None:
    request = embed_from_json(body(input=value))

    assert (request.inputs, request.truncate, request.normalize) == (inputs, True, True)


def test_embed_takes_what_says_how() -> None:
    asked = body(input="a", truncate=False, dimensions=8, keep_alive="1m", options={"num_ctx": 9})

    request = embed_from_json(asked)

    assert (request.truncate, request.dimensions, request.keep_alive_s) == (False, 8, 60)
    assert request.options.num_ctx == 9


@pytest.mark.parametrize("value", [1, {}, True, ["a", 1], [["a"]], [None]])
def test_embed_refuses_what_is_no_text(value: object) -> None:
    with pytest.raises(BadInput, match=r"^invalid input type$"):
        embed_from_json(body(input=value))


def test_the_older_route_takes_one_text_whole_and_raw() -> None:
    request = embeddings_from_json(body(prompt="a", truncate=True))

    assert (request.inputs, request.truncate, request.normalize) == (("a",), False, False)
    assert embeddings_from_json(body(prompt="")).inputs == ()


@pytest.mark.parametrize(
    ("value", "inputs"),
    [
        ("a", ("a",)),
        ("", ("",)),
        (["a", "b"], ("a", "b")),
        ([1, 2], ((1, 2),)),
        ([[1, 2], [3]], ((1, 2), (3,))),
    ],
)
def test_openai_takes_texts_and_token_ids(value: object, inputs: tuple[object, ...]) -> None:
    assert openai_embeddings_from_json(body(input=value)).request.inputs == inputs


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "invalid input"),
        ([], "invalid input"),
        (3, "invalid input type"),
        ({}, "invalid input type"),
        ([[]], "invalid input type"),
        ([1, "a"], "invalid input type"),
        ([1.5], "invalid input type"),
        ([-1], "invalid input type"),
        ([[2**40]], "invalid input type"),
    ],
)
def test_openai_refuses_what_is_neither(value: object, text: str) -> None:
    with pytest.raises(BadInput, match=f"^{text}$"):
        openai_embeddings_from_json(body(input=value))


@pytest.mark.parametrize(
    ("encoding", "is_base64"), [("", False), ("float", False), ("base64", True), ("BASE64", True)]
)
def test_openais_encoding_is_read_in_any_case(encoding: str, is_base64: bool) -> None:
    asked = openai_embeddings_from_json(body(input="a", encoding_format=encoding))

    assert asked.is_base64 is is_base64


def test_another_encoding_is_refused_in_openais_words() -> None:
    with pytest.raises(BadInput) as caught:
        openai_embeddings_from_json(body(input="a", encoding_format="int8"))

    assert str(caught.value) == (
        "Invalid value for 'encoding_format' = int8. Supported values: ['float', 'base64']."
    )


def test_replies_have_ollamas_shape() -> None:
    assert embed_to_json(REPLY, "m") == {
        "model": "m",
        "embeddings": [[0.5, -2.0], [1.0, 0.0]],
        "total_duration": 9,
        "load_duration": 4,
        "prompt_eval_count": 7,
    }
    assert embed_to_json(EmbedReply((), Timings()), "m") == {"model": "m", "embeddings": []}
    assert embeddings_to_json(REPLY) == {"embedding": [0.5, -2.0]}
    assert embeddings_to_json(EmbedReply((), Timings())) == {"embedding": []}


def test_replies_have_openais_shape() -> None:
    reply = openai_embeddings_to_json(REPLY, "m", is_base64=False)
    packed = openai_embeddings_to_json(REPLY, "m", is_base64=True)

    assert reply == {
        "object": "list",
        "data": [
            {"object": "embedding", "embedding": [0.5, -2.0], "index": 0},
            {"object": "embedding", "embedding": [1.0, 0.0], "index": 1},
        ],
        "model": "m",
        "usage": {"prompt_tokens": 7, "total_tokens": 7},
    }
    assert base64.b64decode(packed["data"][0]["embedding"]) == REPLY.vectors[0]


def test_rerank_takes_texts_and_objects_with_a_text() -> None:
    asked = rerank_from_json(
        body(query="q", documents=["a", {"text": "b"}], top_n=1, return_documents=True)
    )

    assert asked == AskedRerank(RerankRequest("m", "q", ("a", "b"), top_n=1), True)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"query": "q"}, "documents must be"),
        ({"query": "q", "documents": []}, "documents must be"),
        ({"query": "q", "documents": "a"}, "documents must be"),
        ({"query": "q", "documents": [1]}, "each document must be"),
        ({"query": "q", "documents": [{"text": 1}]}, "cannot unmarshal number 1"),
        ({"documents": ["a"]}, "query is required"),
        ({"query": "q", "documents": ["a"], "top_n": -1}, "top_n must not be negative"),
    ],
)
def test_rerank_refuses_what_it_cannot_order(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(BadInput, match=text):
        rerank_from_json(body(**fields))


@pytest.mark.parametrize("returns_documents", [False, True])
def test_rerank_names_documents_by_their_index(returns_documents: bool) -> None:
    request = RerankRequest("m", "q", ("a", "b"))
    reply = RerankReply((Rank(1, 0.5), Rank(0, 0.25)), Timings(num_prompt_tokens=5))

    written = rerank_to_json(reply, AskedRerank(request, returns_documents))

    texts: list[dict[str, Any]] = [{"document": {"text": text}} for text in ("b", "a")]
    extra = texts if returns_documents else [{}, {}]
    assert written == {
        "model": "m",
        "results": [
            {"index": 1, "relevance_score": 0.5, **extra[0]},
            {"index": 0, "relevance_score": 0.25, **extra[1]},
        ],
        "usage": {"prompt_tokens": 5, "total_tokens": 5},
    }


@pytest.mark.parametrize(
    "read", [embed_from_json, embeddings_from_json, openai_embeddings_from_json, rerank_from_json]
)
def test_an_empty_body_is_refused(read: Callable[[bytes], object]) -> None:
    with pytest.raises(BadInput, match="missing request body"):
        read(b"")
