"""BlobStore: content addressed by its digest, one file each in `blobs/`.

Knows nothing about manifests. Invariant: a file gets its digest's name only after all its bytes
were hashed, agreed, and reached the disk; what is half written has another name, and its writer
keeps it locked so that no one clears it away meanwhile.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from olla.errors import BlobNotFound, DigestMismatch, InvalidDigest, StoreError
from olla.registry.digest import Digest
from olla.registry.disk import TEMPORARY_PREFIX, disk_errors, publish, try_lock

MAX_SMALL_BLOB_BYTES = 64 * 1024 * 1024
STALE_S = 3600.0
_PARTS_SUFFIX = "-parts"
_BLOCK_BYTES = 512  # of st_blocks, whatever the file system

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Leftover:
    """A file that nothing needs, and what it takes of the disk."""

    file_name: str
    size_bytes: int


class BlobStore:
    def __init__(self, root: Path, extra: tuple[Path, ...] = ()) -> None:
        """`root` is the store's; the blobs lie in `root/blobs`. `extra` ones are only read."""
        self.directory = root / "blobs"
        self._extra = tuple(path / "blobs" for path in extra)

    def path(self, digest: Digest) -> Path:
        """Where the blob is, or would be."""
        own = self.place(digest)
        if own.is_file():
            return own
        others = (directory / digest.file_name for directory in self._extra)
        return next((path for path in others if path.is_file()), own)

    def place(self, digest: Digest) -> Path:
        """Where the blob is written to and removed from, wherever else it may be."""
        return self.directory / digest.file_name

    def has(self, digest: Digest) -> bool:
        with disk_errors(f"cannot read blob {digest}"):
            return self.path(digest).is_file()

    def size_bytes(self, digest: Digest) -> int:
        """
        Raises:
            BlobNotFound: there is no such blob.
        """
        with disk_errors(f"cannot read blob {digest}"):
            try:
                return self.path(digest).stat().st_size
            except FileNotFoundError as error:
                raise BlobNotFound(str(digest)) from error

    def read(self, digest: Digest) -> bytes:
        """The bytes of a small blob: a config, a template; never weights.

        Raises:
            BlobNotFound: there is no such blob.
            StoreError: it is larger than such a blob may be.
        """
        size = self.size_bytes(digest)
        if size > MAX_SMALL_BLOB_BYTES:
            raise StoreError(f"blob {digest} has {size} bytes, too many for what it should be")
        with disk_errors(f"cannot read blob {digest}"):
            try:
                return self.path(digest).read_bytes()
            except FileNotFoundError as error:
                raise BlobNotFound(str(digest)) from error

    def put(self, data: bytes) -> Digest:
        with self.writer() as writer:
            writer.write(data)
            return writer.commit()

    def writer(self, expected: Digest | None = None) -> BlobWriter:
        """For `with`: what is written becomes a blob at `commit`, and is gone without it."""
        return BlobWriter(self, expected)

    def remove(self, digest: Digest) -> None:
        with disk_errors(f"cannot remove blob {digest}"):
            self.place(digest).unlink(missing_ok=True)
            self._parts_file(digest).unlink(missing_ok=True)

    def put_parts(self, whole: Digest, parts: Sequence[Digest]) -> None:
        """Write down which blobs were joined into one, so that nobody brings them again."""
        text = "".join(f"{digest}\n" for digest in parts)
        with disk_errors(f"cannot write the parts of blob {whole}"):
            self._parts_file(whole).write_text(text, "ascii")  # half of it would be no harm

    def joined(self) -> Mapping[tuple[Digest, ...], Digest]:
        """The blobs here that are made of parts, by these."""
        found: dict[tuple[Digest, ...], Digest] = {}
        for directory in (self.directory, *self._extra):
            for path in directory.glob(f"*{_PARTS_SUFFIX}"):
                with suppress(OSError, InvalidDigest, UnicodeDecodeError):
                    parts = tuple(map(Digest.parse, path.read_text("ascii").split()))
                    whole = Digest.parse(path.name.removesuffix(_PARTS_SUFFIX))
                    if self.has(whole):
                        found[parts] = whole
        return found

    def _parts_file(self, whole: Digest) -> Path:
        return self.directory / f"{whole.file_name}{_PARTS_SUFFIX}"

    def rename_old_names(self) -> None:
        """Old stores name blobs `sha256:<hex>`, which Windows forbids."""
        for path in self._files():
            if path.name.startswith("sha256:"):
                with suppress(InvalidDigest):
                    path.rename(self.place(Digest.parse(path.name)))

    def remove_stale(
        self, needed: Collection[Digest], min_age_s: float = STALE_S, dry_run: bool = False
    ) -> tuple[Leftover, ...]:
        """Remove what is old, not needed and not being written; return what that was.

        Files that are no blobs, such as what broken transfers left, go when they are as old. A
        download of a blob that is needed has that blob's name at its front, and stays.
        """
        names = {digest.file_name for digest in needed}
        unneeded = (p for p in self._files() if p.name[: len("sha256-") + 64] not in names)
        found = [_remove_if_stale(path, min_age_s, dry_run) for path in unneeded]
        found += [_remove_folder_if_stale(path, min_age_s, dry_run) for path in self._folders()]
        return tuple(leftover for leftover in found if leftover)

    def disk_bytes(self, besides: Collection[Digest]) -> int:
        """What the other files of the directory take: unused blobs, partial ones, leftovers."""
        names = {digest.file_name for digest in besides}
        names |= {f"{name}{_PARTS_SUFFIX}" for name in names}
        with disk_errors("cannot read the model store"):
            files = [path for path in self._files() if path.name not in names]
            files += [path for folder in self._folders() for path in folder.rglob("*")]
            return sum(_taken(path) for path in files)

    def _files(self) -> list[Path]:
        if not self.directory.is_dir():
            return []
        return sorted(path for path in self.directory.iterdir() if path.is_file())

    def _folders(self) -> list[Path]:
        """Those that conversions write into."""
        return sorted(path for path in self.directory.glob(f"{TEMPORARY_PREFIX}*") if path.is_dir())


class BlobWriter:
    """Writes one blob, hashing as it goes. Made by `BlobStore.writer`; used once, in `with`."""

    def __init__(self, store: BlobStore, expected: Digest | None) -> None:
        self._store = store
        self._expected = expected
        self._hash = hashlib.sha256()
        self._file: BinaryIO
        self._path: Path

    def __enter__(self) -> Self:
        with disk_errors("cannot write to the model store"):
            self._store.directory.mkdir(parents=True, exist_ok=True)
            self._create()
            while not self._path.exists():  # somebody cleaned up before we had locked it
                self._file.close()
                self._create()
        return self

    def _create(self) -> None:
        descriptor, name = tempfile.mkstemp(prefix=TEMPORARY_PREFIX, dir=self._store.directory)
        self._path = Path(name)
        self._file = os.fdopen(descriptor, "wb")
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def write(self, chunk: bytes) -> None:
        self._hash.update(chunk)
        with disk_errors("cannot write blob"):
            self._file.write(chunk)

    @property
    def digest(self) -> Digest:
        """Of what was written so far."""
        return Digest(self._hash.hexdigest())

    def commit(self) -> Digest:
        """Keep what was written.

        Raises:
            DigestMismatch: it is not what was expected; nothing is kept.
        """
        digest = self.digest
        if self._expected is not None and digest != self._expected:
            raise DigestMismatch(str(self._expected), str(digest))
        with disk_errors(f"cannot write blob {digest}"):
            publish(self._file, self._path, self._store.place(digest))
        return digest

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with suppress(OSError):  # of bytes that nobody wants any more, or of a full disk again
            self._path.unlink(missing_ok=True)
            self._file.close()


def _remove_if_stale(path: Path, min_age_s: float, dry_run: bool) -> Leftover | None:
    # In a tree shared with Ollama, files of another user stay.
    with suppress(FileNotFoundError, PermissionError), path.open("rb") as file:
        status = os.fstat(file.fileno())
        if time.time() - status.st_mtime >= min_age_s and try_lock(file):
            if not dry_run:
                path.unlink()
                _log.info("removed stale blob file=%s", path.name)
            return Leftover(path.name, _taken_bytes(status))
    return None


def _remove_folder_if_stale(path: Path, min_age_s: float, dry_run: bool) -> Leftover | None:
    """Remove a folder in which nothing was written for so long."""
    with suppress(FileNotFoundError, PermissionError):
        inside = [path, *path.rglob("*")]
        youngest = max(entry.stat().st_mtime for entry in inside)
        if time.time() - youngest >= min_age_s:
            taken = sum(_taken(entry) for entry in inside)
            if not dry_run:
                shutil.rmtree(path)
                _log.info("removed stale folder file=%s", path.name)
            return Leftover(path.name, taken)
    return None


def _taken(path: Path) -> int:
    with suppress(FileNotFoundError):
        return _taken_bytes(path.stat())
    return 0


def _taken_bytes(status: os.stat_result) -> int:
    """A download's file is as long as the blob from the start, but mostly a hole."""
    return min(status.st_size, status.st_blocks * _BLOCK_BYTES)
