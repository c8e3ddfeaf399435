"""Vectors and scores in every dialect: JSON <-> values (spec/api.md section 6, OpenAI's section 4).

Knows neither HTTP nor models. Reranking is not in Ollama's API or OpenAI's; its shape is what
Cohere's and Jina's clients have in common. Ignored, as in Ollama: OpenAI's `user`.
"""

from __future__ import annotations

import base64
import sys
from array import array
from dataclasses import dataclass
from typing import Any

from olla.api.json_fields import Fields, parse_fields
from olla.durations import parse_keep_alive
from olla.errors import BadInput
from olla.options import Options
from olla.requests import EmbedReply, EmbedRequest, RerankReply, RerankRequest

Json = dict[str, Any]

_FORMATS = ("float", "base64")


@dataclass(frozen=True, slots=True)
class OpenAIEmbeddings:
    request: EmbedRequest
    is_base64: bool = False


@dataclass(frozen=True, slots=True)
class AskedRerank:
    """`returns_documents`: each result has its text."""

    request: RerankRequest
    returns_documents: bool = False


def embed_from_json(body: bytes) -> EmbedRequest:
    """POST /api/embed."""
    fields = parse_fields(body, "EmbedRequest")
    return EmbedRequest(
        model=fields.text("model"),
        inputs=_texts(fields.raw("input")),
        truncate=fields.flag("truncate", default=True),
        dimensions=fields.integer("dimensions"),
        options=Options.from_json(fields.object("options")),
        keep_alive_s=parse_keep_alive(fields.raw("keep_alive")),
    )


def embeddings_from_json(body: bytes) -> EmbedRequest:
    """POST /api/embeddings, the older route: one text, never cut, and its vector as pooled."""
    fields = parse_fields(body, "EmbeddingRequest")
    prompt = fields.text("prompt")
    return EmbedRequest(
        model=fields.text("model"),
        inputs=(prompt,) if prompt else (),
        truncate=False,
        normalize=False,
        options=Options.from_json(fields.object("options")),
        keep_alive_s=parse_keep_alive(fields.raw("keep_alive")),
    )


def openai_embeddings_from_json(body: bytes) -> OpenAIEmbeddings:
    """POST /v1/embeddings."""
    fields = parse_fields(body, "EmbedRequest")
    encoding = fields.text("encoding_format")
    if encoding.lower() not in {"", *_FORMATS}:
        raise BadInput(
            f"Invalid value for 'encoding_format' = {encoding}. "
            "Supported values: ['float', 'base64']."
        )
    request = EmbedRequest(
        model=fields.text("model"),
        inputs=_openai_inputs(fields.raw("input")),
        dimensions=fields.integer("dimensions"),
    )
    return OpenAIEmbeddings(request, encoding.lower() == "base64")


def rerank_from_json(body: bytes) -> AskedRerank:
    """POST /api/rerank and /v1/rerank."""
    fields = parse_fields(body, "RerankRequest")
    documents = fields.raw("documents")
    if not isinstance(documents, list) or not documents:
        raise BadInput("documents must be a list of at least one text")
    if not fields.text("query"):
        raise BadInput("query is required")
    if fields.integer("top_n") < 0:
        raise BadInput("top_n must not be negative")
    request = RerankRequest(
        model=fields.text("model"),
        query=fields.text("query"),
        documents=tuple(_document(document) for document in documents),
        top_n=fields.integer("top_n"),
        options=Options.from_json(fields.object("options")),
        keep_alive_s=parse_keep_alive(fields.raw("keep_alive")),
    )
    return AskedRerank(request, fields.flag("return_documents"))


def embed_to_json(reply: EmbedReply, model: str) -> Json:
    timings = reply.timings
    counts = {
        "total_duration": timings.total_ns,
        "load_duration": timings.load_ns,
        "prompt_eval_count": timings.num_prompt_tokens,
    }
    return {
        "model": model,
        "embeddings": [numbers(vector) for vector in reply.vectors],
        **{name: count for name, count in counts.items() if count},
    }


def embeddings_to_json(reply: EmbedReply) -> Json:
    return {"embedding": numbers(reply.vectors[0]) if reply.vectors else []}


def openai_embeddings_to_json(reply: EmbedReply, model: str, *, is_base64: bool) -> Json:
    data = [
        {
            "object": "embedding",
            "embedding": base64.b64encode(vector).decode() if is_base64 else numbers(vector),
            "index": index,
        }
        for index, vector in enumerate(reply.vectors)
    ]
    return {"object": "list", "data": data, "model": model, "usage": _usage(reply)}


def rerank_to_json(reply: RerankReply, asked: AskedRerank) -> Json:
    request = asked.request
    results = []
    for rank in reply.ranks:
        result: Json = {"index": rank.index, "relevance_score": rank.score}
        if asked.returns_documents:
            result["document"] = {"text": request.documents[rank.index]}
        results.append(result)
    return {"model": request.model, "results": results, "usage": _usage(reply)}


def numbers(vector: bytes) -> list[float]:
    """The numbers of a vector of little-endian float32."""
    values = array("f", vector)
    if sys.byteorder == "big":
        values.byteswap()
    return values.tolist()


def _usage(reply: EmbedReply | RerankReply) -> Json:
    count = reply.timings.num_prompt_tokens
    return {"prompt_tokens": count, "total_tokens": count}


def _texts(value: object) -> tuple[str, ...]:
    """Ollama's input: a text, of which an empty one is none, or a list of texts."""
    if value is None or value == "":
        return ()
    items = value if isinstance(value, list) else [value]
    if not all(isinstance(item, str) for item in items):
        raise BadInput("invalid input type")
    return tuple(items)


def _openai_inputs(value: object) -> tuple[str | tuple[int, ...], ...]:
    """OpenAI's input: a text, token ids, or a list of either."""
    if value is None or value == []:
        raise BadInput("invalid input")
    if isinstance(value, str):
        return (value,)
    if _is_tokens(value):
        value = [value]
    if not isinstance(value, list):
        raise BadInput("invalid input type")
    return tuple(_openai_input(item) for item in value)


def _openai_input(value: Any) -> str | tuple[int, ...]:
    if isinstance(value, str):
        return value
    if not _is_tokens(value):
        raise BadInput("invalid input type")
    return tuple(value)


def _is_tokens(value: object) -> bool:
    is_list = isinstance(value, list) and bool(value)
    return is_list and all(type(item) is int and 0 <= item < 2**31 for item in value)  # type: ignore[attr-defined]


def _document(value: object) -> str:
    """A text, or an object that has it as `text`."""
    text = (
        Fields(value, "RerankRequest.documents").text("text") if isinstance(value, dict) else value
    )
    if not isinstance(text, str):
        raise BadInput("each document must be a text or an object with a text")
    return text
