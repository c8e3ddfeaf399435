"""verify: whether every stored model still is what it was, told by hashing every blob again.

Takes no lock, and a model that is deleted meanwhile is not a broken one.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Generator
from pathlib import Path

from olla.errors import BlobCorrupt, ModelNotFound, StoreError
from olla.names import ModelName
from olla.registry.blobs import BlobStore
from olla.registry.digest import Digest
from olla.registry.disk import disk_errors
from olla.registry.manifest import Layer, parse_manifest
from olla.registry.store import ModelStore
from olla.requests import Progress

_CHUNK_BYTES = 1 << 20
_REPORT_S = 0.06


def verify(store: ModelStore, names: tuple[ModelName, ...] = ()) -> Generator[Progress, None, None]:
    """Check these models, or all; a line for each that is broken, and "success" if none is.

    Raises:
        ModelNotFound: there is none of a name.
        BlobCorrupt: some are broken; the text names them and the way out.
    """
    yield Progress("verifying models")
    verdicts: dict[Digest, str] = {}
    broken: list[str] = []
    checked = [store.find(name) for name in names] or list(store.names())
    for name in checked:
        try:
            reason = yield from _verify_model(store, name, verdicts)
        except ModelNotFound:
            if names:
                raise
            continue
        if reason:
            broken.append(name.short)
            yield Progress(f"{name.short} is broken: {reason}")
    if broken:
        raise BlobCorrupt(_summary(broken, len(checked)))
    yield Progress("success")


def _verify_model(
    store: ModelStore, name: ModelName, verdicts: dict[Digest, str]
) -> Generator[Progress, None, str]:
    """What is wrong with a model, "" if nothing is. `verdicts` are of blobs seen before."""
    data = store.read_manifest(name)
    try:
        layers = parse_manifest(data).blobs
    except StoreError as error:
        return str(error)
    for layer in layers:
        if layer.digest not in verdicts:
            verdicts[layer.digest] = yield from _verify_blob(store.blobs, layer)
        reason = verdicts[layer.digest]
        if reason and store.read_manifest(name) == data:
            return reason
    return ""


def _verify_blob(blobs: BlobStore, layer: Layer) -> Generator[Progress, None, str]:
    what = layer.name or layer.media_type.rpartition(".")[2]
    with disk_errors(f"cannot read blob {layer.digest}"):
        try:
            path = blobs.path(layer.digest)
            if path.stat().st_size != layer.size_bytes:
                return f"its {what} has {path.stat().st_size} bytes, not {layer.size_bytes}"
            digest = yield from _hash(path, layer)
        except FileNotFoundError:
            return f"its {what} is missing"
    return "" if digest == layer.digest else f"its {what} has other bytes than it should"


def _hash(path: Path, layer: Layer) -> Generator[Progress, None, Digest]:
    status = f"verifying {layer.digest.short}"
    sha256 = hashlib.sha256()
    hashed_bytes, reported_at = 0, time.monotonic()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            sha256.update(chunk)
            hashed_bytes += len(chunk)
            if time.monotonic() - reported_at >= _REPORT_S:
                reported_at = time.monotonic()
                yield Progress(status, str(layer.digest), layer.size_bytes, hashed_bytes)
    if hashed_bytes > _CHUNK_BYTES:  # nobody waits for smaller ones
        yield Progress(status, str(layer.digest), layer.size_bytes, layer.size_bytes)
    return Digest(sha256.hexdigest())


def _summary(broken: list[str], num_checked: int) -> str:
    count = f"{len(broken)} of {num_checked} models {'is' if len(broken) == 1 else 'are'} broken"
    return (
        f"{count}: remove with olla rm {' '.join(broken)}, then pull or create "
        f"{'it' if len(broken) == 1 else 'them'} again"
    )
