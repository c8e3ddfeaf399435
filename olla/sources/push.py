"""push: a model from the store to a registry, step by step (spec/registry.md section 5).

Invariant: the manifest goes last, so the registry never names a blob that it has not got.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import BinaryIO

from aiohttp import ClientResponse, hdrs
from yarl import URL

from olla.errors import BlobNotFound, InvalidName, SourceBroke, SourceError, SourceRefused
from olla.names import ModelName
from olla.registry.disk import disk_errors
from olla.registry.manifest import MANIFEST_TYPE, Layer, parse_manifest
from olla.registry.store import ModelStore
from olla.registry.threads import opened, run_to_end
from olla.requests import Progress, TransferOptions
from olla.sources.download import REPORT_S
from olla.sources.line import BackOff, Line
from olla.sources.ollama import Registry, manifest_url, repository_url

NUM_UPLOADS = 4

_CHUNK_BYTES = 2**18
_RANGE = re.compile(r"(?:bytes=)?0-(\d+)", re.ASCII)


async def push(
    registry: Registry,
    name: ModelName,
    store: ModelStore,
    options: TransferOptions,
    destination: ModelName | None = None,
) -> AsyncGenerator[Progress, None]:
    """Send the model `name` to the registry in `destination`, by default its own name.

    The last step is "success".

    Raises:
        ModelNotFound: it is not here.
        SourceError: the registry refused or broke.
    """
    yield Progress("retrieving manifest")
    data = await asyncio.to_thread(store.read_manifest, name)
    target = destination or name
    repository = repository_url(target, options)
    async with registry.open(target, options) as line:
        uploads = [
            _Upload(line, repository, layer, store.blobs.path(layer.digest))
            for layer in dict.fromkeys(parse_manifest(data).blobs)
        ]
        async with aclosing(_run(uploads)) as pushing:
            async for progress in pushing:
                yield progress
        yield Progress("pushing manifest")
        await _put_manifest(line, manifest_url(target, options), data)
    yield Progress("success")


async def _run(uploads: Sequence[_Upload]) -> AsyncGenerator[Progress, None]:
    """Several at once, as a registry takes the parts of each in their order; reports in turn."""
    room = asyncio.Semaphore(NUM_UPLOADS)
    tasks = [asyncio.create_task(_run_in(room, upload)) for upload in uploads]
    try:
        for upload, task in zip(uploads, tasks, strict=True):
            while not task.done():
                await asyncio.wait([task], timeout=REPORT_S)
                for ended in filter(asyncio.Task.done, tasks):
                    ended.result()
                if not task.done():
                    yield upload.report()
            yield upload.report()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _run_in(room: asyncio.Semaphore, upload: _Upload) -> None:
    async with room:
        await upload.run()


class _Upload:
    """One blob on its way."""

    def __init__(self, line: Line, repository: URL, layer: Layer, path: Path) -> None:
        self._line = line
        self._repository = repository
        self._layer = layer
        self._path = path
        self._sent_bytes = 0
        self._md5s: list[bytes] = []

    async def run(self) -> None:
        if not self._path.is_file():
            raise BlobNotFound(str(self._layer.digest))
        back_off = BackOff(self._line.patience)
        while True:
            try:
                if not await self._is_there():
                    url = await self._begin()
                    if url is not None:
                        await self._finish(await self._send_parts(url))
                self._sent_bytes = self._layer.size_bytes
                return
            except SourceBroke as error:
                await back_off.wait(error)

    def report(self) -> Progress:
        status = f"pushing {self._layer.digest.short}"
        size_bytes = self._layer.size_bytes
        completed_bytes = min(self._sent_bytes, size_bytes)
        return Progress(status, str(self._layer.digest), size_bytes, completed_bytes)

    async def _is_there(self) -> bool:
        url = self._repository / "blobs" / str(self._layer.digest)
        try:
            async with self._line.get(url, method=hdrs.METH_HEAD):
                return True
        except SourceRefused as error:
            if error.status == 404:
                return False
            raise

    async def _begin(self) -> URL | None:
        """Where to upload to; None if the registry has found the blob in another repository."""
        url = self._repository / "blobs" / "uploads" / ""
        if source := _repository_of(self._layer.source):
            url = url.with_query({"mount": str(self._layer.digest), "from": source})
        response = await self._line.send(hdrs.METH_POST, url, {"Content-Length": "0"})
        return None if response.status == 201 else self._next(response)

    async def _send_parts(self, url: URL) -> URL:
        """Send the parts, one after the other; where to finish."""
        back_off = BackOff(self._line.patience)
        offset, self._md5s = 0, []
        while offset < self._layer.size_bytes:
            self._sent_bytes = offset
            end = min(offset + self._line.patience.push_part_bytes, self._layer.size_bytes)
            try:
                url = await self._send_part(url, offset, end)
                offset = end
                back_off.reset()
            except SourceBroke as error:
                await back_off.wait(error)
                url, offset = await self._resume(url)
        return url

    async def _send_part(self, url: URL, offset: int, end: int) -> URL:
        md5 = hashlib.md5(usedforsecurity=False)
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(end - offset),
        }
        own = {"Content-Range": f"{offset}-{end - 1}", "X-Redirect-Uploads": "1"}
        body = self._body(offset, end, md5)
        response = await self._line.send(hdrs.METH_PATCH, url, {**headers, **own}, body)
        following = self._next(response)
        if response.status == 307:
            target = self._line.target(url, response.headers[hdrs.LOCATION])
            self._sent_bytes, md5 = offset, hashlib.md5(usedforsecurity=False)
            body = self._body(offset, end, md5)
            await self._line.send(hdrs.METH_PUT, target, headers, body)
        self._md5s.append(md5.digest())
        return following

    async def _resume(self, url: URL) -> tuple[URL, int]:
        """Where to go on with an upload that broke, and from which byte."""
        try:
            response = await self._line.send(hdrs.METH_GET, url, {})
        except SourceRefused as error:
            raise SourceBroke(f"the registry lost the upload: {error}") from error
        match = _RANGE.fullmatch(response.headers.get(hdrs.RANGE, ""))
        arrived = int(match[1]) + 1 if match else 0
        # Registries say "0-0" of nothing as well as of one byte.
        return self._next(response), arrived if arrived > 1 else 0

    async def _finish(self, url: URL) -> None:
        etag = hashlib.md5(b"".join(self._md5s), usedforsecurity=False).hexdigest()
        pairs = {"digest": str(self._layer.digest), "etag": f"{etag}-{len(self._md5s)}"}
        await self._line.send(hdrs.METH_PUT, url.update_query(pairs), {"Content-Length": "0"})

    def _next(self, response: ClientResponse) -> URL:
        for header in ("Docker-Upload-Location", hdrs.LOCATION):
            if location := response.headers.get(header):
                return self._line.target(response.url, location)
        raise SourceError(f"{response.url.host} does not say where to upload to")

    def _open(self) -> BinaryIO:
        with disk_errors(f"cannot read blob {self._layer.digest}"):
            return self._path.open("rb")

    async def _body(self, offset: int, end: int, md5: hashlib._Hash) -> AsyncIterator[bytes]:
        async with opened(self._open) as file:
            file.seek(offset)
            while offset < end:
                chunk = await run_to_end(file.read, min(_CHUNK_BYTES, end - offset))
                if not chunk:
                    raise BlobNotFound(str(self._layer.digest))
                await self._line.rate.take(len(chunk))
                md5.update(chunk)
                offset += len(chunk)
                yield chunk
                self._sent_bytes = offset


async def _put_manifest(line: Line, url: URL, data: bytes) -> None:
    back_off = BackOff(line.patience)
    while True:
        try:
            await line.send(hdrs.METH_PUT, url, {"Content-Type": MANIFEST_TYPE}, data)
            return
        except SourceBroke as error:
            await back_off.wait(error)


def _repository_of(source: str) -> str:
    """The registry's path of the model that a layer came from, if it came from one."""
    try:
        name = ModelName.parse(source)
    except InvalidName:
        return ""
    return f"{name.namespace}/{name.model}"
