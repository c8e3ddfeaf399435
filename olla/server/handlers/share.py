"""/v2: this daemon's store as a registry, for other machines to pull from; read-only.

Only with OLLA_SHARE. A name without a host of its own, `library/model`, is one of Ollama's
registry here; of models from elsewhere the one with that path. Knows the names of the protocol
(spec/registry.md section 4); the bytes go from the disk to the socket without passing by us.
"""

from __future__ import annotations

import asyncio

from aiohttp import hdrs, web

from olla.errors import BlobNotFound, InvalidDigest, InvalidName, ModelNotFound
from olla.names import DEFAULT_HOST, ModelName
from olla.registry.digest import Digest
from olla.registry.manifest import MANIFEST_TYPE
from olla.registry.store import ModelStore
from olla.server.services import SERVICES
from olla.server.streaming import json_reply

_NAMES = "{namespace:[^/]+}/{model:[^/]+}"
MANIFEST_PATH = f"/v2/{_NAMES}/manifests/{{tag:[^/]+}}"
BLOB_PATH = f"/v2/{_NAMES}/blobs/{{digest:[^/]+}}"


async def base(request: web.Request) -> web.Response:
    """GET /v2/: that this is a registry."""
    _shared_store(request)
    return json_reply({})


async def manifest(request: web.Request) -> web.Response:
    """GET, HEAD: the manifest of a model, byte for byte."""
    store = _shared_store(request)
    try:
        data = await asyncio.to_thread(_read_manifest, store, request)
    except (ModelNotFound, InvalidName):
        return _refusal("MANIFEST_UNKNOWN", "manifest unknown")
    headers = {"Docker-Content-Digest": str(Digest.of(data))}
    return web.Response(body=data, content_type=MANIFEST_TYPE, headers=headers)


async def blob(request: web.Request) -> web.StreamResponse:
    """GET, HEAD: a blob, or a range of it."""
    store = _shared_store(request)
    try:
        digest = Digest.parse(request.match_info["digest"])
        await asyncio.to_thread(store.blobs.size_bytes, digest)
    except (InvalidDigest, BlobNotFound):
        return _refusal("BLOB_UNKNOWN", "blob unknown to registry")
    headers = {
        hdrs.CONTENT_TYPE: "application/octet-stream",
        "Docker-Content-Digest": str(digest),
    }
    return web.FileResponse(store.blobs.path(digest), headers=headers)


def _shared_store(request: web.Request) -> ModelStore:
    services = request.app[SERVICES]
    if not services.settings.share:
        raise web.HTTPNotFound
    return services.store


def _read_manifest(store: ModelStore, request: web.Request) -> bytes:
    namespace, model, tag = (request.match_info[part] for part in ("namespace", "model", "tag"))
    name = ModelName.parse(f"{DEFAULT_HOST}/{namespace}/{model}:{tag}")
    try:
        return store.read_manifest(name)
    except ModelNotFound:
        found = _from_elsewhere(store, name)
        if found is None:
            raise
        return store.read_manifest(found)


def _from_elsewhere(store: ModelStore, name: ModelName) -> ModelName | None:
    wanted = name.folded().path.parts[1:]
    others = (other for other in store.names() if other.folded().path.parts[1:] == wanted)
    return min(others, key=lambda other: other.full, default=None)


def _refusal(code: str, message: str) -> web.Response:
    error = {"errors": [{"code": code, "message": message}]}
    return json_reply(error, status=404, charset=None)
