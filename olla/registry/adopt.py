"""Files that other programs keep on this machine, made blobs without a second copy of the bytes.

A clone that shares its blocks where the file system can make one, else a hard link, else a copy.
Invariant, as with every blob: the name is given only to bytes that were hashed and agreed.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
import shutil
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path

from olla.registry.blobs import BlobStore
from olla.registry.digest import Digest
from olla.registry.disk import FILE_MODE, TEMPORARY_PREFIX, disk_errors, sync_directory, try_lock

_FICLONE = 0x40049409  # linux/fs.h
_CHUNK_BYTES = 1 << 20


def adopt(blobs: BlobStore, path: Path, digest: Digest) -> Generator[int, None, bool]:
    """Make the file at `path` the blob `digest`, telling how many bytes were checked.

    Returns:
        Whether it is one now; not if the file is something else, or cannot be read.

    Raises:
        StoreError: the store refused.
    """
    own = blobs.directory / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}"
    with disk_errors(f"cannot write blob {digest}"):
        blobs.directory.mkdir(parents=True, exist_ok=True)
        try:
            return (yield from _adopt(path, own, blobs.place(digest), digest))
        finally:
            own.unlink(missing_ok=True)


def _adopt(path: Path, own: Path, blob: Path, digest: Digest) -> Generator[int, None, bool]:
    try:
        _take(path.resolve(), own)
        file = own.open("rb")
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        return False
    with file:
        if not try_lock(file):  # so that nobody takes it for something that was left behind
            return False
        sha256 = hashlib.sha256()
        hashed_bytes = 0
        while chunk := file.read(_CHUNK_BYTES):
            sha256.update(chunk)
            hashed_bytes += len(chunk)
            yield hashed_bytes
        if sha256.hexdigest() != digest.hex:
            return False
        os.fsync(file.fileno())
        own.replace(blob)
    sync_directory(blob.parent)
    return True


def _take(path: Path, own: Path) -> None:
    """Put the bytes of `path` at `own`, in the cheapest way that the file systems allow."""
    with path.open("rb") as source:
        with own.open("wb") as target, suppress(OSError):
            fcntl.ioctl(target, _FICLONE, source.fileno())
            os.fchmod(target.fileno(), FILE_MODE)
            return
        own.unlink()
        with suppress(OSError):
            own.hardlink_to(path)
            return
        with own.open("wb") as target:
            shutil.copyfileobj(source, target, _CHUNK_BYTES)
            os.fchmod(target.fileno(), FILE_MODE)
