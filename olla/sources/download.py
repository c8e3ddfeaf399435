"""fetch: one blob of known digest and size from a Line into the store; the one path for all.

Ranges come in parallel; what came is on disk at once, so a transfer that ends, however it ends,
goes on there. Of several who fetch one blob, in whatever process, one brings it and the others
wait; when that one leaves, another goes on. Small documents of unknown digest: `Line.document`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, closing
from dataclasses import dataclass
from mmap import mmap

from aiohttp import ClientResponse, hdrs
from yarl import URL

from olla.errors import SourceBroke, SourceError, SourceRefused
from olla.registry.blobs import BlobStore
from olla.registry.digest import Digest
from olla.registry.partial import Part, PartialBlob, read_parts, try_open
from olla.registry.threads import QuietThreads, opened
from olla.requests import Progress
from olla.sources.line import BackOff, Line
from olla.sources.socket_body import SocketBody

REPORT_S = 0.06
WRITE_BYTES = 2**20
FLUSH_EVERY_S = 0.2
OTHER_THREADS = 2  # one hashes, one flushes; each stream writes in one of its own
LARGE_BYTES = 64 * 2**20

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Remote:
    """A blob at the far end. `url` may redirect anywhere; the line's credentials stay behind."""

    digest: Digest
    size_bytes: int
    url: URL

    def report(self, completed_bytes: int) -> Progress:
        status = f"pulling {self.digest.short}"
        return Progress(status, str(self.digest), self.size_bytes, completed_bytes)


@dataclass(frozen=True, slots=True)
class Planned:
    """Something that a pull would bring; `digest` where it is known before it comes."""

    what: str
    size_bytes: int
    digest: Digest | None = None


async def fetch(line: Line, remote: Remote, blobs: BlobStore) -> AsyncGenerator[Progress, None]:
    """Bring one blob into the store, where a hold of the caller keeps it.

    To be closed (`aclosing`); that stops the transfer and keeps what came of it.

    Raises:
        SourceError: the far end refused or broke once too often.
        BlobCorrupt: its bytes are not those of the digest; nothing of them is kept.
        StoreError: the store refused, as on a full disk.
    """
    while not await asyncio.to_thread(blobs.has, remote.digest):
        async with opened(try_open, blobs, remote.digest, remote.size_bytes) as partial:
            if partial is None:
                parts = await asyncio.to_thread(lambda: list(read_parts(blobs, remote.digest)))
                yield remote.report(sum(part.completed_bytes for part in parts))
                await asyncio.sleep(REPORT_S)
                continue
            async with aclosing(_bring(line, remote, partial)) as bringing:
                async for progress in bringing:
                    yield progress
    yield remote.report(remote.size_bytes)


async def _bring(
    line: Line, remote: Remote, partial: PartialBlob
) -> AsyncGenerator[Progress, None]:
    with QuietThreads(line.num_streams + OTHER_THREADS) as threads:
        work = asyncio.create_task(_Download(line, remote, partial, threads).run())
        try:
            while not work.done():
                yield remote.report(partial.completed_bytes)
                await asyncio.wait([work], timeout=REPORT_S)
            await work
        finally:
            work.cancel()
            await asyncio.wait([work])


class _RangesIgnored(SourceError):
    """The server sends the whole blob whatever part of it is asked for."""


class _Download:
    def __init__(
        self, line: Line, remote: Remote, partial: PartialBlob, threads: QuietThreads
    ) -> None:
        self._threads = threads
        self._line = line
        self._remote = remote
        self._partial = partial
        self._url = remote.url
        self._has_grown = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    async def run(self) -> None:
        try:
            await self._bring_parts()
        except _RangesIgnored:
            await self._threads.run_to_end(self._partial.join_parts)
            await self._bring_parts()
        await self._threads.run_to_end(self._partial.commit)

    async def _bring_parts(self) -> None:
        queue = iter(self._partial.parts)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._hash())
                group.create_task(self._flush())
                for _ in self._partial.parts[: self._line.num_streams]:
                    group.create_task(self._work(queue))
        except ExceptionGroup as errors:
            raise _first(errors) from None

    async def _work(self, queue: Iterator[Part]) -> None:
        for part in queue:
            await self._complete(part)

    async def _complete(self, part: Part) -> None:
        back_off = BackOff(self._line.patience)
        while part.missing_bytes:
            before = part.completed_bytes
            try:
                await self._attempt(part)
            except SourceBroke as error:
                self._url = self._remote.url  # where it redirected to may be what is broken
                if part.completed_bytes > before:
                    back_off.reset()
                await back_off.wait(error)

    async def _attempt(self, part: Part) -> None:
        first, last = part.position, part.offset + part.size_bytes - 1
        headers: dict[str, str] = {}
        if part.position > 0 or part.size_bytes < self._remote.size_bytes:
            headers[hdrs.RANGE] = f"bytes={first}-{last}"
        is_redirected = self._url != self._remote.url
        try:
            async with self._line.get(self._url, headers) as response:
                self._url = response.url
                skipped_bytes = self._skipped_bytes(response, part)
                body = None if skipped_bytes else self._line.take(response, part.missing_bytes)
                if body is None:
                    await self._store(response, part, skipped_bytes)
                else:
                    with closing(body):
                        await self._threads.run_until_left(body.interrupt, self._copy, body, part)
        except SourceRefused as error:
            if is_redirected:  # such addresses are good for a while only
                raise SourceBroke(str(error)) from error
            raise

    def _skipped_bytes(self, response: ClientResponse, part: Part) -> int:
        """How many bytes of this body we have already.

        Raises:
            _RangesIgnored: it is not of this part.
            SourceError: it is not what was asked for.
        """
        host, total = response.url.host, self._remote.size_bytes
        if response.status == 200:
            if response.content_length not in {None, total}:
                raise SourceError(f"{host} has {response.content_length} bytes of it, not {total}")
            if part.size_bytes < total:
                raise _RangesIgnored(f"{host} ignores ranges")
            return part.completed_bytes
        text = response.headers.get(hdrs.CONTENT_RANGE, "")
        match = _CONTENT_RANGE.fullmatch(text)
        expected = (part.position, part.offset + part.size_bytes - 1)
        if match is None or (int(match[1]), int(match[2])) != expected:
            raise SourceError(f"{host} sent another range than was asked for: {text!r}")
        if match[3] not in {"*", str(total)}:
            raise SourceError(f"{host} has {match[3]} bytes of it, not {total}")
        return 0

    async def _store(self, response: ClientResponse, part: Part, skipped_bytes: int) -> None:
        """Write a body to its part, in large pieces; what came before a failure too."""
        chunks: list[bytes] = []
        try:
            left = skipped_bytes + part.missing_bytes
            while chunk := await self._line.read(response, left + 1):
                left -= len(chunk)
                if left < 0:
                    response.close()
                    raise SourceError(f"{response.url.host} sent more bytes than the blob has")
                if skipped_bytes:
                    chunk, skipped_bytes = _skip(chunk, skipped_bytes)
                chunks.append(chunk)
                if sum(map(len, chunks)) >= WRITE_BYTES:
                    full, chunks = chunks, []
                    await self._write(part, full)
        finally:
            if chunks:
                await self._write(part, chunks)
        if part.missing_bytes:
            raise SourceBroke(f"{response.url.host} closed the connection early")

    def _copy(self, body: SocketBody, part: Part) -> None:
        """Write a body to its part, in a thread; what came before a failure too."""
        buffer = memoryview(mmap(-1, WRITE_BYTES))  # its pages come without Python's lock
        while part.missing_bytes:
            wanted = buffer[: part.missing_bytes]
            self._partial.write(part, [wanted[: body.read_into(wanted)]])
            if not self._has_grown.is_set():
                self._loop.call_soon_threadsafe(self._has_grown.set)

    async def _write(self, part: Part, chunks: list[bytes]) -> None:
        await self._threads.run_to_end(self._partial.write, part, chunks)
        self._has_grown.set()

    async def _hash(self) -> None:
        """Follow the parts as they come; what is hashed late is read from the system's cache."""
        while not self._partial.is_hashed:
            self._has_grown.clear()
            if not await self._threads.run_to_end(self._partial.hash_more):
                await self._has_grown.wait()

    async def _flush(self) -> None:
        """Keep the disk at work from the start, so that little is left to wait for at the end."""
        while self._partial.missing_bytes > LARGE_BYTES:
            await self._threads.run_to_end(self._partial.flush)
            await asyncio.sleep(FLUSH_EVERY_S)


def _skip(chunk: bytes, num_bytes: int) -> tuple[bytes, int]:
    """The chunk without its first bytes, and how many there are still to skip."""
    return chunk[num_bytes:], max(0, num_bytes - len(chunk))


def _first(errors: Exception) -> Exception:
    """One of the errors that ended a group, which mostly are the same many times over."""
    while isinstance(errors, ExceptionGroup):
        errors = errors.exceptions[0]
    return errors
