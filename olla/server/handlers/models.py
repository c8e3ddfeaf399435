"""What is stored and what is loaded: tags, show, ps, copy, delete."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from aiohttp import web

from olla.api.ollama_replies import (
    Json,
    ModelDescription,
    ModelSummary,
    QueueEntry,
    loaded_to_json,
    ps_to_json,
    show_to_json,
    tags_to_json,
)
from olla.api.ollama_requests import (
    CopyRequest,
    ShowRequest,
    copy_from_json,
    delete_from_json,
    show_from_json,
)
from olla.errors import BadInput, ModelNotFound, StoreError
from olla.modelfile.files import ADAPTER_CONFIG
from olla.modelfile.format import Description, format_description
from olla.names import ModelName
from olla.registry.model import DEFAULT_TEMPLATE, Model
from olla.registry.store import ModelStore
from olla.registry.threads import run_to_end
from olla.registry.weights import GGUF_NAME
from olla.runner.pool import LoadedModel, Waiting
from olla.server.references import local_name, plain_name
from olla.server.services import SERVICES
from olla.server.streaming import json_reply, read_json

_COPILOT = "GitHubCopilotChat/"

_log = logging.getLogger(__name__)


async def tags(request: web.Request) -> web.Response:
    """GET /api/tags: every stored model."""
    return json_reply(await asyncio.to_thread(_tags, request.app[SERVICES].store))


async def show(request: web.Request) -> web.Response:
    """POST /api/show: all about one stored model."""
    asked = await read_json(request, show_from_json)
    if not asked.model:
        raise BadInput("model is required")
    name = local_name(asked.model, details=True)
    reply = await asyncio.to_thread(_show, request.app[SERVICES].store, name, asked)
    if request.headers.get("User-Agent", "").startswith(_COPILOT):
        reply["model_info"] = {**reply["model_info"], "general.basename": asked.model}
    return json_reply(reply)


async def ps(request: web.Request) -> web.Response:
    """GET /api/ps: the loaded models, how far others are on their way, and who waits for what."""
    services = request.app[SERVICES]
    loaded = services.pool.list()
    loading = [
        (model.name.short, model.completed_bytes, model.total_bytes)
        for model in services.pool.loading()
    ]
    queue = [_queue_entry(waiting) for waiting in services.pool.queue()]
    entries = await asyncio.to_thread(_loaded, services.store, loaded)
    return json_reply(ps_to_json(entries, loading, queue))


async def copy(request: web.Request) -> web.Response:
    """POST /api/copy: a second name for a model."""
    asked = await read_json(request, copy_from_json)
    await run_to_end(_copy, request.app[SERVICES].store, asked)
    return web.Response()


async def delete(request: web.Request) -> web.Response:
    """DELETE /api/delete: the model leaves the store, and memory when its requests end."""
    services = request.app[SERVICES]
    text = await read_json(request, delete_from_json)
    if not text:
        raise BadInput("model is required")
    name = plain_name(text, f'name "{text}" is invalid')
    stored = await run_to_end(_delete, services.store, name, text)
    services.pool.unload(stored)
    return web.Response()


def _tags(store: ModelStore) -> Json:
    return tags_to_json(summary_of(model) for model in store.list())


def _loaded(store: ModelStore, loaded: Iterable[LoadedModel]) -> list[Json]:
    return [entry for model in loaded if (entry := _loaded_entry(store, model))]


def _queue_entry(waiting: Waiting) -> QueueEntry:
    caller = waiting.caller
    name, state = waiting.name.short, waiting.state
    return QueueEntry(caller.request_id, caller.client, name, state, waiting.position)


def _loaded_entry(store: ModelStore, loaded: LoadedModel) -> Json | None:
    """None for a model that was deleted, or broke on the disk, since it was loaded."""
    try:
        model = store.resolve(loaded.name)
    except ModelNotFound:
        return None
    except StoreError as error:
        _log.warning("skipped loaded model name=%s error=%s", loaded.name.full, error)
        return None
    return loaded_to_json(
        summary_of(model),
        loaded.expires_at,
        loaded.size_bytes,
        loaded.vram_bytes,
        loaded.context_length,
        adapter_of=model.parent if model.adapters else "",
    )


def _show(store: ModelStore, name: ModelName, asked: ShowRequest) -> Json:
    model = store.resolve(name)
    system = asked.system or model.system
    parameters = {**model.parameters, **asked.options.to_json()}
    description = ModelDescription(
        summary=summary_of(model),
        parent_model=model.parent,
        modelfile=format_description(_modelfile(model, system, parameters)),
        template=model.prompt_template,
        system=system,
        licenses=model.licenses,
        parameters=parameters,
        messages=model.messages,
        requires=model.config.requires,
        info=model.info(verbose=asked.verbose),
        projector_info=model.projector_info(verbose=asked.verbose),
        draft_info=model.draft_header.info,
        adapters=model.adapter_info(),
        tensors=[asdict(tensor) for tensor in model.tensors()],
    )
    return show_to_json(description)


def _copy(store: ModelStore, asked: CopyRequest) -> None:
    source = plain_name(asked.source, f'source "{asked.source}" is invalid')
    destination = plain_name(asked.destination, f'destination "{asked.destination}" is invalid')
    try:
        store.copy(source, destination)
    except ModelNotFound as error:
        raise ModelNotFound(error.name, f'model "{asked.source}" not found') from error


def _delete(store: ModelStore, name: ModelName, text: str) -> ModelName:
    """Returns the name as it was stored."""
    stored = store.find(name)
    users = [model.name.short for model in store.list() if _lies_over(model, stored)]
    if users:
        raise BadInput(
            f"model '{stored.short}' is the base of {', '.join(sorted(users))}: delete those first"
        )
    try:
        store.delete(stored)
    except ModelNotFound as error:
        raise ModelNotFound(text) from error
    return stored


def _lies_over(model: Model, base: ModelName) -> bool:
    """Whether a model is an adapter over the model called `base`."""
    return bool(model.adapters) and model.parent == base.short and model.name != base


def summary_of(model: Model) -> ModelSummary:
    """What lists say about a model, in every dialect."""
    return ModelSummary(
        name=model.name.short,
        digest=model.digest.hex,
        modified_at=model.modified_at,
        size_bytes=model.size_bytes,
        format=model.config.model_format,
        family=model.config.model_family or model.architecture,
        families=model.config.model_families,
        parameter_size=model.parameter_size,
        quantization_level=model.quantization_level,
        context_length=model.context_length,
        embedding_length=model.embedding_length,
        capabilities=model.capabilities,
    )


def _modelfile(model: Model, system: str, parameters: Mapping[str, Any]) -> Description:
    """Weights in one file are named by their path; others only through the model's name."""
    adapters = [
        (str(path), scale)
        for files, scale in model.scaled_adapters
        for name, path in files.items()
        if name != ADAPTER_CONFIG
    ]
    is_in_files = GGUF_NAME in model.files and all(len(files) == 1 for files in model.adapters)
    return Description(
        name=model.name.short,
        base=str(model.files[GGUF_NAME]) if is_in_files else model.name.short,
        adapters=adapters,
        inherits_adapters=not is_in_files,
        projectors=[str(path) for path in model.projectors] if is_in_files else (),
        draft=str(model.draft) if is_in_files and model.draft else "",
        template=model.template or ("" if model.chat_template else DEFAULT_TEMPLATE),
        system=system,
        renderer=model.config.renderer,
        parser=model.config.parser,
        parameters=parameters,
        licenses=model.licenses,
        messages=model.messages,
    )
