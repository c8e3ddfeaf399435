"""PartialBlob: a blob that comes in parts, in any order, and survives whoever brings it.

Its files are Ollama's (spec/registry.md section 2): `<blob>-partial` has the bytes, and each
`<blob>-partial-<N>` says how far one part is, so that either program goes on where the other was
killed. Whoever brings the blob keeps the file of bytes locked. Invariant: the blob's own name is
given only to bytes that hash to it and have reached the disk.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from mmap import mmap
from pathlib import Path
from typing import BinaryIO

from olla.errors import BlobCorrupt, StoreError
from olla.registry.blobs import BlobStore
from olla.registry.digest import Digest
from olla.registry.disk import check_room, disk_errors, publish, try_lock

MIN_PART_BYTES = 16 * 2**20
NUM_PARTS = 64

_STATE_BYTES = 128  # always as long, so that one write replaces the last
_HASH_BYTES = 2**20
_HASH_STEP_BYTES = 8 * 2**20


@dataclass(slots=True)
class Part:
    """A range of the blob, filled from its front."""

    number: int
    offset: int
    size_bytes: int
    completed_bytes: int = 0

    @property
    def missing_bytes(self) -> int:
        return self.size_bytes - self.completed_bytes

    @property
    def position(self) -> int:
        """Where in the blob the first byte that is missing lies."""
        return self.offset + self.completed_bytes


class PartialBlob:
    """Made by `try_open`; closed by whoever opened it. `write` may run in many threads, but in
    one for each part; all else in one thread at a time."""

    def __init__(self, blobs: BlobStore, digest: Digest, size_bytes: int, file: BinaryIO) -> None:
        self._blobs = blobs
        self._digest = digest
        self._size_bytes = size_bytes
        self._file = file
        self._hash = hashlib.sha256()
        self._hashed_bytes = 0
        self._buffer = memoryview(mmap(-1, _HASH_BYTES))
        self._writing = threading.Lock()  # the system would have those who wait for a file spin
        parts = self._read_parts()
        missing_bytes = size_bytes - sum(part.completed_bytes for part in parts)
        check_room(blobs.directory, missing_bytes)
        self.parts = parts or self._start(split(size_bytes))

    @property
    def completed_bytes(self) -> int:
        return sum(part.completed_bytes for part in self.parts)

    @property
    def missing_bytes(self) -> int:
        return self._size_bytes - self.completed_bytes

    @property
    def is_hashed(self) -> bool:
        return self._hashed_bytes == self._size_bytes

    def join_parts(self) -> None:
        """Make one part of all, as far as they are complete without a gap."""
        self.parts = self._start((Part(0, 0, self._size_bytes, self._ready_bytes()),))

    def write(self, part: Part, chunks: Sequence[bytes | memoryview]) -> None:
        """Append to a part, and write down how far it is."""
        assert sum(map(len, chunks)) <= part.missing_bytes
        with disk_errors(f"cannot write blob {self._digest}"):
            for chunk in chunks:
                rest = memoryview(chunk)
                while rest:
                    with self._writing:
                        written = os.pwrite(self._file.fileno(), rest, part.position)
                    part.completed_bytes += written
                    rest = rest[written:]
            self._write_state(part)

    def flush(self) -> None:
        """Bring to the disk what was written."""
        with disk_errors(f"cannot write blob {self._digest}"):
            os.fdatasync(self._file.fileno())

    def hash_more(self) -> bool:
        """Hash a few megabytes of what is there without a gap; False when there is no more."""
        end = min(self._ready_bytes(), self._hashed_bytes + _HASH_STEP_BYTES)
        if end == self._hashed_bytes:
            return False
        with disk_errors(f"cannot read blob {self._digest}"):
            while self._hashed_bytes < end:
                wanted = self._buffer[: end - self._hashed_bytes]
                num_read = os.preadv(self._file.fileno(), [wanted], self._hashed_bytes)
                if not num_read:
                    raise StoreError(f"blob {self._digest} became shorter while it was written")
                self._hash.update(wanted[:num_read])
                self._hashed_bytes += num_read
        return True

    def commit(self) -> None:
        """Give the blob its name. All of it has been hashed.

        Raises:
            BlobCorrupt: the bytes are not those of the digest; nothing is kept.
        """
        assert self.is_hashed
        actual = Digest(self._hash.hexdigest())
        path = _path(self._blobs, self._digest)
        with disk_errors(f"cannot write blob {self._digest}"):
            if actual != self._digest:
                self._remove_states()
                path.unlink()
                raise BlobCorrupt(
                    "digest mismatch, file must be downloaded again: "
                    f"want {self._digest}, got {actual}"
                )
            os.fsync(self._file.fileno())  # the long wait; what follows is short
            self._remove_states()
            publish(self._file, path, self._blobs.place(self._digest))

    def close(self) -> None:
        self._file.close()

    def _ready_bytes(self) -> int:
        """How many bytes from the blob's front are there without a gap."""
        for part in self.parts:
            if part.missing_bytes:
                return part.position
        return self._size_bytes

    def _start(self, parts: tuple[Part, ...]) -> tuple[Part, ...]:
        with disk_errors(f"cannot write blob {self._digest}"):
            self._remove_states()
            for part in parts:
                self._write_state(part)
            os.ftruncate(self._file.fileno(), self._size_bytes)
        return parts

    def _read_parts(self) -> tuple[Part, ...]:
        """The parts of an earlier transfer; none unless they are the whole blob's."""
        with disk_errors(f"cannot read blob {self._digest}"):
            if os.fstat(self._file.fileno()).st_size != self._size_bytes:
                return ()
            parts = sorted(read_parts(self._blobs, self._digest), key=lambda part: part.offset)
        end = 0
        for part in parts:
            if part.offset != end or not 0 <= part.completed_bytes <= part.size_bytes:
                return ()
            end += part.size_bytes
        return tuple(parts) if end == self._size_bytes else ()

    def _write_state(self, part: Part) -> None:
        state = {
            "N": part.number,
            "Offset": part.offset,
            "Size": part.size_bytes,
            "Completed": part.completed_bytes,
        }
        path = _path(self._blobs, self._digest, part.number)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            os.pwrite(descriptor, json.dumps(state).encode().ljust(_STATE_BYTES), 0)
        finally:
            os.close(descriptor)

    def _remove_states(self) -> None:
        for path in _state_paths(self._blobs, self._digest):
            path.unlink(missing_ok=True)


def try_open(blobs: BlobStore, digest: Digest, size_bytes: int) -> PartialBlob | None:
    """The partial blob, with what an earlier transfer left of it.

    None while another has it, or where one has made the blob of it by now.

    Raises:
        StoreError: the store refused, or its disk has no room for the rest.
    """
    path = _path(blobs, digest)
    with disk_errors("cannot write to the model store"):
        blobs.directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        file = os.fdopen(descriptor, "r+b")
        if not (try_lock(file) and _is_current(file, path)):
            file.close()
            return None
        if blobs.has(digest):
            path.unlink()
            file.close()
            return None
    try:
        return PartialBlob(blobs, digest, size_bytes, file)
    except StoreError:
        file.close()
        raise


def read_parts(blobs: BlobStore, digest: Digest) -> Iterator[Part]:
    """How far each part is that whoever brings the blob has written down."""
    for path in _state_paths(blobs, digest):
        with suppress(OSError, ValueError, KeyError, TypeError):
            state = json.loads(path.read_bytes())
            numbers = [state[key] for key in ("N", "Offset", "Size", "Completed")]
            if all(type(number) is int for number in numbers):
                yield Part(*numbers)


def stored_bytes(blobs: BlobStore, digest: Digest, size_bytes: int) -> int:
    """How much of a blob is here already."""
    if blobs.has(digest):
        return size_bytes
    return sum(part.completed_bytes for part in read_parts(blobs, digest))


def split(size_bytes: int) -> tuple[Part, ...]:
    """Parts small enough that hashing from the front keeps up, and not too many of them."""
    step = max(size_bytes // NUM_PARTS, MIN_PART_BYTES)
    offsets = range(0, size_bytes, step) or range(1)
    return tuple(
        Part(number, offset, min(step, size_bytes - offset))
        for number, offset in enumerate(offsets)
    )


def _path(blobs: BlobStore, digest: Digest, number: int | None = None) -> Path:
    suffix = "" if number is None else f"-{number}"
    return blobs.directory / f"{digest.file_name}-partial{suffix}"


def _state_paths(blobs: BlobStore, digest: Digest) -> list[Path]:
    return list(blobs.directory.glob(f"{digest.file_name}-partial-*"))


def _is_current(file: BinaryIO, path: Path) -> bool:
    """Whether the file we locked still has its name: who had it before may have renamed it."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
