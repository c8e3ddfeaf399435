"""Vectors and scores: embed, embeddings, rerank, and OpenAI's embeddings."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from aiohttp import web

from olla.api.embeddings import (
    Json,
    embed_from_json,
    embed_to_json,
    embeddings_from_json,
    embeddings_to_json,
    openai_embeddings_from_json,
    openai_embeddings_to_json,
    rerank_from_json,
    rerank_to_json,
)
from olla.errors import BadInput, InvalidName, ModelNotFound, RunnerError
from olla.requests import EmbedReply, EmbedRequest
from olla.server.references import local_text
from olla.server.services import SERVICES
from olla.server.streaming import json_reply, read_json


async def embed(request: web.Request) -> web.Response:
    """POST /api/embed: a vector for each text."""
    asked = await read_json(request, embed_from_json)
    reply = await _embed(request, asked)
    return await _send(lambda: embed_to_json(reply, asked.model))


async def embeddings(request: web.Request) -> web.Response:
    """POST /api/embeddings: the vector of one text. What the engine refuses is status 500 here."""
    asked = await read_json(request, embeddings_from_json)
    if not asked.model:
        raise BadInput("model is required")
    try:
        reply = await _embed(request, asked)
    except InvalidName:
        raise
    except BadInput as error:
        raise RunnerError(str(error)) from error
    return await _send(lambda: embeddings_to_json(reply))


async def openai_embeddings(request: web.Request) -> web.Response:
    """POST /v1/embeddings: a vector for each text or list of token ids."""
    asked = await read_json(request, openai_embeddings_from_json)
    reply = await _embed(request, asked.request)
    model, is_base64 = asked.request.model, asked.is_base64
    return await _send(lambda: openai_embeddings_to_json(reply, model, is_base64=is_base64))


async def rerank(request: web.Request) -> web.Response:
    """POST /api/rerank, /v1/rerank: documents by how well they answer a query."""
    asked = await read_json(request, rerank_from_json)
    model = _model(asked.request.model)
    embedding = request.app[SERVICES].embedding
    reply = await embedding.rerank(replace(asked.request, model=model))
    return await _send(lambda: rerank_to_json(reply, asked))


async def _embed(request: web.Request, asked: EmbedRequest) -> EmbedReply:
    embedding = request.app[SERVICES].embedding
    return await embedding.embed(replace(asked, model=_model(asked.model)))


def _model(text: str) -> str:
    if not text:
        raise ModelNotFound(text)
    return local_text(text)


async def _send(to_json: Callable[[], Json]) -> web.Response:
    """Written beside the loop: thousands of vectors are megabytes of JSON."""
    return await asyncio.to_thread(lambda: json_reply(to_json()))
