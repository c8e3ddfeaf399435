"""olla's own routes about the store: what it takes, whether it is whole, and models as one file."""

from __future__ import annotations

import asyncio
import logging
from contextlib import ExitStack, aclosing
from datetime import UTC, datetime

from aiohttp import hdrs, web

from olla.api.ollama_replies import usage_to_json
from olla.api.store_requests import GcRequest, gc_from_json, import_from_json, verify_from_json
from olla.errors import BadInput, BlobNotFound, StoreError
from olla.names import ModelName
from olla.registry.archive import Archive, archive_of
from olla.registry.blobs import STALE_S, Leftover
from olla.registry.disk import Hold
from olla.registry.manifest import parse_manifest, parse_new_manifest
from olla.registry.model import read_model
from olla.registry.store import ModelStore
from olla.registry.threads import run_to_end
from olla.registry.usage import usage_of
from olla.registry.verify import verify as verify_models
from olla.server.handlers.transfers import send_progress
from olla.server.origins import is_local
from olla.server.references import local_name
from olla.server.services import SERVICES
from olla.server.streaming import (
    gone_is_cancelled,
    json_reply,
    read_json,
    steps_in_thread,
)

_log = logging.getLogger(__name__)


async def du(request: web.Request) -> web.Response:
    """GET /api/du: what each model takes of the disk, and what they share."""
    return json_reply(usage_to_json(await asyncio.to_thread(usage_of, _store(request))))


async def verify(request: web.Request) -> web.StreamResponse:
    """POST /api/verify: hash every blob again, and name the models that are broken."""
    asked = await read_json(request, verify_from_json)
    names = tuple(local_name(model) for model in asked.models)
    steps = steps_in_thread(verify_models(_store(request), names))
    return await send_progress(request, steps, asked.stream)


async def gc(request: web.Request) -> web.Response:
    """POST /api/gc: remove the files that no model needs, or only say which."""
    asked = await read_json(request, gc_from_json)
    removed = await run_to_end(_collect, _store(request), asked)
    return json_reply(
        {
            "removed": [{"file": file.file_name, "size": file.size_bytes} for file in removed],
            "freed": sum(file.size_bytes for file in removed),
        }
    )


async def export(request: web.Request) -> web.StreamResponse:
    """GET /api/export?model=NAME: the model as an archive, to whoever may read models here."""
    services = request.app[SERVICES]
    if not (services.settings.share or is_local(request)):
        return web.Response(status=403)
    name = local_name(request.query.get("model", ""))
    with ExitStack() as stack:
        hold = await run_to_end(stack.enter_context, services.store.hold())
        archive = await run_to_end(_archive, services.store, name, hold)
        return await _send_archive(request, archive)


async def import_model(request: web.Request) -> web.Response:
    """POST /api/import: a manifest whose blobs were uploaded becomes a model."""
    asked = await read_json(request, import_from_json)
    name = local_name(asked.model)
    stored = await run_to_end(_import, _store(request), name, asked.manifest.encode())
    return json_reply({"status": "success", "model": stored.short})


def _store(request: web.Request) -> ModelStore:
    return request.app[SERVICES].store


def _collect(store: ModelStore, asked: GcRequest) -> tuple[Leftover, ...]:
    return store.collect(0.0 if asked.everything else STALE_S, asked.dry_run)


def _archive(store: ModelStore, name: ModelName, hold: Hold) -> Archive:
    stored = store.find(name)
    manifest = store.read_manifest(stored)
    for layer in parse_manifest(manifest).blobs:
        hold.add(layer.digest)
    return archive_of(stored, manifest, store.blobs)


async def _send_archive(request: web.Request, archive: Archive) -> web.StreamResponse:
    response = web.StreamResponse(headers={hdrs.CONTENT_TYPE: "application/x-tar"})
    response.content_length = archive.size_bytes
    with gone_is_cancelled():
        await response.prepare(request)
    try:
        async with aclosing(steps_in_thread(archive.chunks())) as chunks:
            async for chunk in chunks:
                with gone_is_cancelled():
                    await response.write(chunk)
    except StoreError as error:  # the client sees that it was promised more
        _log.error("export failed error=%s", error)
        response.force_close()
        if request.transport:
            request.transport.abort()
    return response


def _import(store: ModelStore, name: ModelName, manifest: bytes) -> ModelName:
    stored = store.find(name)
    with store.hold() as hold:
        try:
            for layer in parse_new_manifest(manifest).blobs:
                hold.add(layer.digest)
            read_model(stored, manifest, datetime.now(UTC), store.blobs)
        except (BlobNotFound, StoreError) as error:
            raise BadInput(f"the model cannot be imported: {error}") from error
        store.put(stored, manifest)
    return stored
