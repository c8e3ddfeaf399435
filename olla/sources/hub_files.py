"""The files of a hub's repository, one by one into the store.

From the cache of the hub's own client where it has the bytes, else off the network. What a hub
publishes no digest of is small, and held against git's name for it instead.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass
from pathlib import Path

from yarl import URL

from olla.errors import SourceError, SourceRefused, SourceUnauthorized
from olla.modelfile.parts import find_joined, join_uploads
from olla.modelfile.uploads import Upload
from olla.registry.adopt import adopt
from olla.registry.blobs import MAX_SMALL_BLOB_BYTES, BlobStore
from olla.registry.digest import Digest
from olla.registry.disk import Hold, check_room
from olla.registry.partial import stored_bytes
from olla.registry.threads import QuietThreads, run_to_end
from olla.requests import Progress
from olla.sources.choice import Choice
from olla.sources.download import REPORT_S, Remote
from olla.sources.line import Line, Patience, Rate, open_line
from olla.sources.prefetch import Fetch, prefetching
from olla.sources.repository import RemoteFile, Repository


@dataclass(frozen=True, slots=True)
class Brought:
    """A choice's files in the store: those of the model, parts made one, and all that came."""

    weights: tuple[Upload, ...]
    files: Mapping[RemoteFile, Upload]


@dataclass(frozen=True, slots=True)
class Bringer:
    """The way to one repository, and the store at its end."""

    repository: Repository
    line: Line
    blobs: BlobStore
    hold: Hold

    async def bring(self, choice: Choice) -> AsyncGenerator[Progress | Brought, None]:
        """Bring the files, held; the last item is what they are in the store.

        Raises:
            SourceError: the hub refused or broke.
            FormatError: parts of a file do not fit together.
            BlobCorrupt: it sent other bytes than it promised.
            StoreError: the store refused.
        """
        joined = await run_to_end(self._find_joined, choice)
        if joined:
            yield _done(joined)
        elif choice.is_split:
            await run_to_end(self._check_room, choice.files)
        files = choice.texts if joined else choice.all_files
        brought: dict[RemoteFile, Upload] = {}
        async with aclosing(self._bring_files(tuple(files), brought)) as coming:
            async for progress in coming:
                yield progress
        weights = (joined,) if joined else tuple(brought[file] for file in choice.files)
        if choice.is_split and not joined:
            async with aclosing(self._join(weights)) as joining:
                async for item in joining:
                    if isinstance(item, Progress):
                        yield item
                    else:
                        weights = item
        yield Brought(weights, brought)

    async def _bring_files(
        self, files: Sequence[RemoteFile], brought: dict[RemoteFile, Upload]
    ) -> AsyncGenerator[Progress, None]:
        """Bring the files and enter them in `brought`."""
        remotes = [_remote(file, file.digest) for file in files if file.digest and not file.cached]
        for remote in remotes:
            await run_to_end(self.hold.add, remote.digest)
        try:
            async with prefetching(self.line, remotes, self.blobs) as fetch:
                for file in files:
                    digest = file.digest or await self._bring_document(file)
                    async with aclosing(self._bring_blob(file, digest, fetch)) as coming:
                        async for progress in coming:
                            yield progress
                    path = self.blobs.path(digest)
                    brought[file] = Upload(file.name, digest, file.size_bytes, path)
        except (SourceUnauthorized, SourceRefused) as error:
            raise explained(error, self.repository) from error

    async def _join(
        self, parts: tuple[Upload, ...]
    ) -> AsyncGenerator[Progress | tuple[Upload, ...], None]:
        """Make one file of the parts; the last item is that file."""
        steps = join_uploads(parts, self.blobs, self.hold)
        with QuietThreads(1) as threads:
            try:
                while (step := await threads.run_to_end(next, steps, None)) is not None:
                    yield step
            finally:
                await threads.run_to_end(steps.close)

    def _find_joined(self, choice: Choice) -> Upload | None:
        """What these parts were made into by an earlier pull."""
        digests = tuple(file.digest for file in choice.files if file.digest)
        digest = find_joined(digests, self.blobs, self.hold) if choice.is_split else None
        if digest is None:
            return None
        path = self.blobs.path(digest)
        return Upload(choice.files[0].name, digest, self.blobs.size_bytes(digest), path)

    def _check_room(self, parts: Iterable[RemoteFile]) -> None:
        """The parts and what they are made into are on the disk together for a while."""
        size_bytes = sum(part.size_bytes for part in parts)
        here = sum(
            stored_bytes(self.blobs, part.digest, part.size_bytes) for part in parts if part.digest
        )
        check_room(self.blobs.directory, 2 * size_bytes - here)

    async def _bring_document(self, file: RemoteFile) -> Digest:
        data = await read_document(self.line, self.repository, file)
        await run_to_end(self.hold.add, Digest.of(data))
        return await run_to_end(self.blobs.put, data)

    async def _bring_blob(
        self, file: RemoteFile, digest: Digest, fetch: Fetch
    ) -> AsyncGenerator[Progress, None]:
        remote = _remote(file, digest)
        await run_to_end(self.hold.add, digest)
        for path in file.cached:
            async with aclosing(self._adopt(remote, path)) as adopting:
                async for progress in adopting:
                    yield progress
        async with aclosing(fetch(remote)) as fetching:
            async for progress in fetching:
                yield progress

    async def _adopt(self, remote: Remote, path: Path) -> AsyncGenerator[Progress, None]:
        """Take the file from a cache, if it is there and what it should be."""
        if not await asyncio.to_thread(_may_be, path, remote, self.blobs):
            return
        checking = adopt(self.blobs, path, remote.digest)
        reported_at = 0.0
        try:
            while checked_bytes := await run_to_end(next, checking, 0):
                now = asyncio.get_running_loop().time()
                if now - reported_at >= REPORT_S:
                    reported_at = now
                    yield remote.report(checked_bytes)
        finally:
            await run_to_end(checking.close)


def _remote(file: RemoteFile, digest: Digest) -> Remote:
    return Remote(digest, file.size_bytes, URL(file.url, encoded=True))


def line_to(
    repository: Repository, patience: Patience, limit_rate: int
) -> AbstractAsyncContextManager[Line]:
    """For `async with`: the way to a repository, which has at least one file."""
    origin = URL(repository.files[0].url, encoded=True).origin()
    return open_line(origin, headers=repository.headers, patience=patience, rate=Rate(limit_rate))


async def read_document(line: Line, repository: Repository, file: RemoteFile) -> bytes:
    """A small file, checked as far as the hub says what it should be."""
    if file.size_bytes > MAX_SMALL_BLOB_BYTES:
        raise SourceError(f"{repository.name} has no digest of its large {file.name}")
    data = await line.document(URL(file.url, encoded=True), file.size_bytes)
    if len(data) != file.size_bytes or file.git_oid not in {"", _git_oid(data)}:
        raise SourceError(f"{repository.name} sent another {file.name} than it lists")
    return data


def explained(error: SourceUnauthorized | SourceRefused, repository: Repository) -> SourceError:
    """What a refusal of a file means for whoever wanted the model."""
    if isinstance(error, SourceUnauthorized) or error.status == 403:
        return SourceError(repository.refusal)
    return SourceError(f"{repository.name}: {error}")


def _done(file: Upload) -> Progress:
    status = f"pulling {file.digest.short}"
    return Progress(status, str(file.digest), file.size_bytes, file.size_bytes)


def _may_be(path: Path, remote: Remote, blobs: BlobStore) -> bool:
    try:
        is_there = path.is_file() and path.stat().st_size == remote.size_bytes
    except OSError:
        return False
    return is_there and not blobs.has(remote.digest)


def _git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
