"""Uploads in parts -> the same uploads, with one blob in the place of each split GGUF file.

Ollama knows a model's weights as one blob, so parts are joined when they come, and everything
behind this sees one file. Invariant: the parts stay as they are.
"""

from __future__ import annotations

import time
from collections.abc import Generator

from olla.errors import FormatError
from olla.formats.gguf import GgufFile, read_gguf
from olla.formats.gguf_parts import group_parts, join_parts
from olla.modelfile.uploads import Upload
from olla.registry.blobs import BlobStore
from olla.registry.digest import Digest
from olla.registry.disk import Hold, check_room, disk_errors
from olla.requests import Progress

_REPORT_S = 0.06


def join_uploads(
    uploads: tuple[Upload, ...], blobs: BlobStore, hold: Hold
) -> Generator[Progress | tuple[Upload, ...], None, None]:
    """Tell how far it is; the last item is the uploads, without any that are parts.

    Raises:
        FormatError: a part is missing, broken, or not of the same file; the text names it.
        StoreError: the store refused.
    """
    named = {upload.name: upload for upload in uploads}
    for whole, names in group_parts(named).items():
        parts = {name: named.pop(name) for name in names}
        digests = tuple(part.digest for part in parts.values())
        digest = find_joined(digests, blobs, hold)
        if digest is None:
            digest = yield from _join(whole, parts, blobs, hold)
            blobs.put_parts(digest, digests)
        named[whole] = Upload(whole, digest, blobs.size_bytes(digest), blobs.path(digest))
    yield tuple(named.values())


def find_joined(parts: tuple[Digest, ...], blobs: BlobStore, hold: Hold) -> Digest | None:
    """The blob, held, that was made of these parts before."""
    digest = blobs.joined().get(parts)
    if digest is None:
        return None
    hold.add(digest)
    return digest if blobs.has(digest) else None


def _join(
    name: str, parts: dict[str, Upload], blobs: BlobStore, hold: Hold
) -> Generator[Progress, None, Digest]:
    whole = join_parts({part: _header(upload) for part, upload in parts.items()})
    check_room(blobs.directory, whole.size_bytes)
    status = f"joining the {len(parts)} parts of {name.rpartition('/')[2]}"
    written_bytes, reported_at = 0, time.monotonic()
    with blobs.writer() as writer, disk_errors(f"cannot read the parts of {name}"):
        for chunk in whole.chunks():
            writer.write(chunk)
            written_bytes += len(chunk)
            if time.monotonic() - reported_at >= _REPORT_S:
                reported_at = time.monotonic()
                yield Progress(status, "", whole.size_bytes, written_bytes)
        hold.add(writer.digest)
        digest = writer.commit()
    yield Progress(status, "", whole.size_bytes, whole.size_bytes)
    return digest


def _header(upload: Upload) -> GgufFile:
    try:
        return read_gguf(upload.path)
    except FormatError as error:
        raise FormatError(f"{upload.name}: {error}") from error
