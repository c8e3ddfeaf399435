"""Small durable writes, and the locks of everybody who shares a store.

Two kinds of lock, both flock's, so that a process that dies lets go of them:
- the store's own (`.olla/lock`): whoever changes manifests or removes blobs has it alone;
- a hold (`.olla/holds/*`): a file, locked while its owner lives, that lists blobs which no
  manifest names yet but somebody needs. Adding to it takes the store's lock, so whoever removes
  blobs sees every hold whole.
Every lock opens its file anew; flock then keeps threads apart as well as processes.
Knows nothing about manifests. Ollama reads neither file nor takes these locks.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from olla.errors import InvalidDigest, StoreError
from olla.registry.digest import Digest

TEMPORARY_PREFIX = ".olla-"
FILE_MODE = 0o644


@contextmanager
def disk_errors(action: str) -> Iterator[None]:
    """Turn what the operating system refuses into StoreError."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"{action}: {error.strerror or error}") from error


def write_atomically(path: Path, data: bytes) -> None:
    """Put `data` at `path`: after a crash there is the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=TEMPORARY_PREFIX, dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            publish(file, Path(name), path)
    finally:
        Path(name).unlink(missing_ok=True)


def publish(file: BinaryIO, temporary: Path, path: Path) -> None:
    """Give a finished temporary file its name, once its bytes are on the disk."""
    file.flush()
    os.fchmod(file.fileno(), FILE_MODE)
    os.fsync(file.fileno())
    temporary.replace(path)
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make renames and removals in `directory` survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_room(directory: Path, missing_bytes: int) -> None:
    """
    Raises:
        StoreError: the disk has no room for so many bytes more.
    """
    with disk_errors("cannot read the size of the disk"):
        directory.mkdir(parents=True, exist_ok=True)
        disk = os.statvfs(directory)
    free_bytes = disk.f_bavail * disk.f_frsize
    if free_bytes < missing_bytes:
        raise StoreError(
            f"no space left on device: {missing_bytes} bytes are needed in the model store and "
            f"{free_bytes} are free"
        )


def try_lock(file: BinaryIO) -> bool:
    """Lock `file`, unless somebody else has."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class Hold:
    """Blobs that stay until this is closed. Made by `StoreLocks.hold`."""

    def __init__(self, locks: StoreLocks, file: BinaryIO) -> None:
        self.digests: set[Digest] = set()
        self._locks = locks
        self._file = file

    def add(self, digest: Digest) -> None:
        """Keep this blob, whether it is there already or comes later."""
        with disk_errors(f"cannot hold blob {digest}"), self._locks.exclusive():
            self._file.write(f"{digest}\n".encode())
            self._file.flush()
        self.digests.add(digest)


class StoreLocks:
    def __init__(self, root: Path) -> None:
        self._lock = root / ".olla" / "lock"
        self._holds = root / ".olla" / "holds"
        self._claim = root / ".olla" / "daemon"

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Have the store alone. Not to be taken twice by one caller."""
        self._lock.parent.mkdir(parents=True, exist_ok=True)
        with self._lock.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                # Closing is not enough: a process forked meanwhile shares the open file.
                fcntl.flock(file, fcntl.LOCK_UN)

    @contextmanager
    def hold(self) -> Iterator[Hold]:
        with disk_errors("cannot write to the model store"):
            self._holds.mkdir(parents=True, exist_ok=True)
            with self.exclusive():
                descriptor, name = tempfile.mkstemp(dir=self._holds)
                file = os.fdopen(descriptor, "wb")
                fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield Hold(self, file)
        finally:
            Path(name).unlink(missing_ok=True)
            file.close()

    @contextmanager
    def claim(self) -> Iterator[bool]:
        """Whether nobody else claims the store meanwhile."""
        with disk_errors("cannot write to the model store"):
            self._claim.parent.mkdir(parents=True, exist_ok=True)
            file = self._claim.open("ab")
        with file:
            yield try_lock(file)

    def held(self) -> frozenset[Digest]:
        """What live holds keep. To be called with the store's lock; clears away dead holds."""
        digests: set[Digest] = set()
        for path in self._holds.iterdir() if self._holds.is_dir() else ():
            with suppress(FileNotFoundError), path.open("rb") as file:
                if try_lock(file):
                    path.unlink()
                else:
                    digests.update(_parse_lines(file.read()))
        return frozenset(digests)


def _parse_lines(data: bytes) -> Iterator[Digest]:
    for line in data.decode("ascii", "replace").splitlines():
        with suppress(InvalidDigest):
            yield Digest.parse(line)
