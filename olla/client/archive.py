"""Reads a model's archive: an OCI image layout in a tar, from anywhere, so trusted in nothing.

Nothing is unpacked: entries are looked at, and the bytes of blobs are handed on. Invariant: only
plain files with the names of an image layout, each once, and of a size that the manifest tells.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from olla.errors import BadInput

MAX_ENTRIES = 100_000
MAX_DOCUMENT_BYTES = 16 * 2**20

_REFERENCE = "org.opencontainers.image.ref.name"
_BLOB = re.compile(r"blobs/sha256/([0-9a-f]{64})")
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_FOLDERS = frozenset({"blobs", "blobs/sha256"})


@dataclass(frozen=True, slots=True)
class StoredBlob:
    digest: str
    size_bytes: int


class Archive:
    """Made by `open_archive`. `name` is what the archive calls its model, "" if nothing.

    `manifest` is its text; `blobs` are all that the manifest names, each once.
    """

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self._entries = _entries(tar)
        descriptor = self._descriptor()
        self.name = _text(_object(descriptor.get("annotations") or {}), _REFERENCE)
        self.manifest = self._read(self._blob_entry(_text(descriptor, "digest"))).decode(
            "utf-8", "surrogateescape"
        )
        self.blobs = tuple(dict.fromkeys(self._blobs()))

    def open(self, blob: StoredBlob) -> IO[bytes]:
        return self._extract(self._blob_entry(blob.digest))

    def _descriptor(self) -> Mapping[str, Any]:
        """What the index says of the one model."""
        if "oci-layout" not in self._entries or "index.json" not in self._entries:
            raise BadInput("it has no oci-layout and index.json, so it is no model's archive")
        manifests = _list(_json(self._read(self._entries["index.json"])), "manifests")
        if len(manifests) != 1:
            raise BadInput(f"it holds {len(manifests)} models, not one")
        return _object(manifests[0])

    def _blobs(self) -> Iterator[StoredBlob]:
        manifest = _json(self.manifest)
        for layer in (manifest.get("config"), *_list(manifest, "layers")):
            digest = _text(_object(layer), "digest")
            entry = self._blob_entry(digest)
            if entry.size != _object(layer).get("size"):
                raise BadInput(f"blob {digest} has {entry.size} bytes, and its manifest differs")
            yield StoredBlob(digest, entry.size)

    def _blob_entry(self, digest: str) -> tarfile.TarInfo:
        match = _DIGEST.fullmatch(digest)
        entry = self._entries.get(f"blobs/sha256/{match[1]}") if match else None
        if entry is None:
            raise BadInput(f"blob {digest!r} is not in it")
        return entry

    def _read(self, entry: tarfile.TarInfo) -> bytes:
        if entry.size > MAX_DOCUMENT_BYTES:
            raise BadInput(f"{entry.name} has {entry.size} bytes, too many for what it should be")
        with self._extract(entry) as file:
            return file.read()

    def _extract(self, entry: tarfile.TarInfo) -> IO[bytes]:
        file = self._tar.extractfile(entry)
        assert file is not None, "only plain files are among the entries"
        return file


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """For `with`.

    Raises:
        BadInput: it is broken, or no archive of a model.
    """
    with path.open("rb") as file:
        try:
            with tarfile.open(fileobj=_Measured(file), mode="r:") as tar:  # type: ignore[call-overload]
                yield Archive(tar)
        except (tarfile.TarError, EOFError, UnicodeError) as error:
            raise BadInput(f"it is no archive of a model: {error}") from error


class _Measured:
    """A file of which nobody reads much at once, as for a header that claims to be huge."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int) -> bytes:
        if not 0 <= size <= MAX_DOCUMENT_BYTES:
            raise tarfile.ReadError("a header is too large")
        return self._file.read(size)

    def seek(self, position: int) -> int:
        return self._file.seek(position)

    def tell(self) -> int:
        return self._file.tell()


def _entries(tar: tarfile.TarFile) -> Mapping[str, tarfile.TarInfo]:
    entries: dict[str, tarfile.TarInfo] = {}
    for entry in tar:
        name = entry.name.removeprefix("./")
        if entry.isdir() and name in _FOLDERS | {"."}:
            continue
        is_known = name in {"oci-layout", "index.json"} or _BLOB.fullmatch(name)
        if not (is_known and entry.type in {tarfile.REGTYPE, tarfile.AREGTYPE}):
            raise BadInput(f"it holds {entry.name!r}, which no archive of a model has")
        if name in entries:
            raise BadInput(f"it holds {name} twice")
        if len(entries) == MAX_ENTRIES:
            raise BadInput(f"it holds more than {MAX_ENTRIES} files")
        entries[name] = entry
    return entries


def _json(data: bytes | str) -> Mapping[str, Any]:
    try:
        return _object(json.loads(data))
    except (ValueError, RecursionError) as error:
        raise BadInput("a document in it is not JSON") from error


def _object(value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise BadInput("a document in it has no object where one should be")
    return value


def _list(document: Mapping[str, Any], key: str) -> list[Any]:
    value = document.get(key)
    if not isinstance(value, list):
        raise BadInput(f"a document in it has no list of {key}")
    return value


def _text(document: Mapping[str, Any], key: str) -> str:
    value = document.get(key, "")
    return value if isinstance(value, str) else ""
