"""/api/pull, /api/push and /api/create: models that come and go, with their progress."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

from aiohttp import web

from olla.api.ollama_replies import progress_to_json
from olla.api.ollama_requests import create_from_json, pull_from_json, push_from_json
from olla.errors import ModelNotFound
from olla.modelfile.build import build_model
from olla.names import ModelName
from olla.parsers.choose import check_parser
from olla.quantization import check_draft_quantization, check_quantization, is_packed_type
from olla.registry.store import ModelStore
from olla.renderers.base import check_template
from olla.requests import PLAIN_TRANSFER, CreateRequest, Progress
from olla.runner.conversion import Conversion, convert
from olla.server.references import local_name
from olla.server.services import SERVICES, Services
from olla.server.streaming import json_reply, read_json, send_ndjson, steps_in_thread

Transfer = AsyncGenerator[Progress, None]


async def pull(request: web.Request) -> web.StreamResponse:
    """POST /api/pull: a model from where its name says it is."""
    services = request.app[SERVICES]
    asked = await read_json(request, pull_from_json)
    name = await asyncio.to_thread(services.store.find, local_name(asked.model))
    transfer = services.pull(name, services.store, asked.options)
    return await send_progress(request, transfer, asked.stream)


async def push(request: web.Request) -> web.StreamResponse:
    """POST /api/push: a model to where its own name, or `destination`, says."""
    services = request.app[SERVICES]
    asked = await read_json(request, push_from_json)
    name = await asyncio.to_thread(services.store.find, local_name(asked.model))
    destination = local_name(asked.destination) if asked.destination else name
    transfer = services.push(name, destination, services.store, asked.options)
    return await send_progress(request, transfer, asked.stream)


async def create(request: web.Request) -> web.StreamResponse:
    """POST /api/create: a model from another one, or from uploaded files."""
    services = request.app[SERVICES]
    asked = await read_json(request, create_from_json)
    name = await asyncio.to_thread(services.store.find, ModelName.parse(asked.model))
    if asked.quantize:
        check_quantization(asked.quantize)
    if asked.draft_quantize:
        check_draft_quantization(asked.draft_quantize)
    if asked.parser:
        check_parser(asked.parser)
    if asked.template:
        await asyncio.to_thread(check_template, asked.template)
    base = local_name(asked.base) if asked.base else None
    local = replace(asked, model=name.full, base=base.full if base else "")
    return await send_progress(request, _create(services, local, base), asked.stream)


async def _create(services: Services, asked: CreateRequest, base: ModelName | None) -> Transfer:
    if base and not await asyncio.to_thread(_is_stored, services.store, base):
        async with aclosing(services.pull(base, services.store, PLAIN_TRANSFER)) as pulling:
            async for progress in pulling:
                yield progress
    async with aclosing(steps_in_thread(build_model(asked, services.store, _quantize))) as building:
        async for progress in building:
            yield progress


def _quantize(
    files: Mapping[str, Path], kind: str, output: Path, chat_template: str
) -> Generator[Progress, None, None]:
    job = Conversion(
        files={name: str(path) for name, path in files.items()},
        output=str(output),
        format="hf" if is_packed_type(kind) else "gguf",
        quantization=kind,
        chat_template=chat_template,
    )
    return convert(job, "quantizing")


async def send_progress(
    request: web.Request, transfer: Transfer, stream: bool
) -> web.StreamResponse:
    """A stream of progress; not streamed, only the last of it."""
    async with aclosing(transfer):
        last = await anext(transfer)
        if stream:
            rest = (progress_to_json(progress) async for progress in transfer)
            return await send_ndjson(request, progress_to_json(last), rest)
        async for progress in transfer:
            last = progress
        return json_reply(progress_to_json(last), charset=None)


def _is_stored(store: ModelStore, name: ModelName) -> bool:
    try:
        store.resolve(name)
    except ModelNotFound:
        return False
    return True
