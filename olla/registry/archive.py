"""A model as one file: an OCI image layout in a tar, which other tools for images read too.

Writing only; who imports one takes it apart and uploads its blobs. Knows no HTTP.
"""

from __future__ import annotations

import tarfile
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

from olla.errors import StoreError
from olla.names import ModelName
from olla.registry.blobs import BlobStore
from olla.registry.digest import Digest
from olla.registry.disk import disk_errors
from olla.registry.manifest import MANIFEST_TYPE, format_json, parse_manifest

_CHUNK_BYTES = 1 << 20
_END = bytes(2 * tarfile.BLOCKSIZE)


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of the archive: small contents, or where the blob is."""

    name: str
    size_bytes: int
    source: bytes | Path


@dataclass(frozen=True, slots=True)
class Archive:
    entries: tuple[Entry, ...]

    @property
    def size_bytes(self) -> int:
        blocks = (_padded(entry.size_bytes) + tarfile.BLOCKSIZE for entry in self.entries)
        return sum(blocks) + len(_END)

    def chunks(self) -> Generator[bytes, None, None]:
        """
        Raises:
            StoreError: a blob cannot be read, or is not as long as its manifest says.
        """
        for entry in self.entries:
            yield _header(entry)
            yield from _contents(entry)
            yield bytes(_padded(entry.size_bytes) - entry.size_bytes)
        yield _END


def archive_of(name: ModelName, manifest: bytes, blobs: BlobStore) -> Archive:
    """The archive of one model; what other programs look at comes first.

    Raises:
        StoreError: the manifest is broken, or a blob is missing.
    """
    digest = Digest.of(manifest)
    reference = {"org.opencontainers.image.ref.name": name.short}
    descriptor = {"mediaType": MANIFEST_TYPE, "digest": str(digest), "size": len(manifest)}
    index = {"schemaVersion": 2, "manifests": [{**descriptor, "annotations": reference}]}
    entries = [
        _small("oci-layout", format_json({"imageLayoutVersion": "1.0.0"})),
        _small("index.json", format_json(index)),
        _small(_blob_name(digest), manifest),
    ]
    for layer in dict.fromkeys((e.digest, e.size_bytes) for e in parse_manifest(manifest).blobs):
        if not blobs.has(layer[0]):
            raise StoreError(f"model {name} is broken: blob {layer[0]} is not there")
        entries.append(Entry(_blob_name(layer[0]), layer[1], blobs.path(layer[0])))
    return Archive(tuple(entries))


def _small(name: str, data: bytes) -> Entry:
    return Entry(name, len(data), data)


def _blob_name(digest: Digest) -> str:
    return f"blobs/sha256/{digest.hex}"


def _header(entry: Entry) -> bytes:
    info = tarfile.TarInfo(entry.name)
    info.size = entry.size_bytes
    return info.tobuf(tarfile.GNU_FORMAT)  # which has no limit of 8 GiB


def _contents(entry: Entry) -> Iterator[bytes]:
    if isinstance(entry.source, bytes):
        yield entry.source
        return
    left = entry.size_bytes
    with disk_errors(f"cannot read {entry.source.name}"), entry.source.open("rb") as file:
        while left and (chunk := file.read(min(_CHUNK_BYTES, left))):
            left -= len(chunk)
            yield chunk
    if left:
        raise StoreError(f"{entry.source.name} is shorter than its manifest says")


def _padded(size_bytes: int) -> int:
    return -(-size_bytes // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
