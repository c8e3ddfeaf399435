"""/api/blobs/:digest: files of models to be, uploaded before `create` names them."""

from __future__ import annotations

import asyncio

from aiohttp import web

from olla.errors import BadInput, BlobNotFound
from olla.registry.digest import Digest
from olla.registry.threads import run_to_end
from olla.server.services import SERVICES
from olla.server.streaming import gone_is_cancelled

CHUNK_BYTES = 2**20


async def head_blob(request: web.Request) -> web.Response:
    """HEAD: whether the blob is there."""
    digest = Digest.parse(request.match_info["digest"])
    if not await asyncio.to_thread(request.app[SERVICES].store.blobs.has, digest):
        raise BlobNotFound(request.match_info["digest"])
    return web.Response()


async def post_blob(request: web.Request) -> web.Response:
    """POST: raw bytes of any length, which must hash to the digest. Not read if it is there."""
    blobs = request.app[SERVICES].store.blobs
    digest = Digest.parse(request.match_info["digest"])
    if await asyncio.to_thread(blobs.has, digest):
        return web.Response()
    with blobs.writer(digest) as writer:
        while chunk := await _read_chunk(request):
            await run_to_end(writer.write, chunk)
        await run_to_end(writer.commit)
    return web.Response(status=201)


async def _read_chunk(request: web.Request) -> bytes:
    try:
        with gone_is_cancelled():
            return await request.content.read(CHUNK_BYTES)
    except web.RequestPayloadError as error:
        raise BadInput("unexpected EOF") from error
