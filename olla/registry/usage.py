"""Usage: what the models in a store take of the disk, together and each alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress

from olla.errors import BlobNotFound, ModelNotFound, StoreError
from olla.registry.blobs import BlobStore
from olla.registry.digest import Digest
from olla.registry.manifest import parse_manifest
from olla.registry.store import ModelStore
from olla.requests import ModelUsage, SharedBlob, Usage


def usage_of(store: ModelStore) -> Usage:
    """Who has which blobs. Models whose manifest cannot be read are left out.

    Raises:
        StoreError: the disk refused.
    """
    blobs = _blobs_by_model(store)
    sizes = {digest: _own_size(store.blobs, digest) for model in blobs.values() for digest in model}
    owners: dict[Digest, list[str]] = defaultdict(list)
    for name, digests in blobs.items():
        for digest in digests:
            owners[digest].append(name)
    shared = (
        SharedBlob(str(digest), sizes[digest], tuple(names))
        for digest, names in owners.items()
        if len(names) > 1
    )
    total_bytes = sum(sizes.values())
    return Usage(
        models=tuple(
            ModelUsage(
                name,
                sum(sizes[digest] for digest in digests),
                sum(sizes[digest] for digest in digests if len(owners[digest]) == 1),
            )
            for name, digests in blobs.items()
        ),
        shared=tuple(sorted(shared, key=lambda blob: -blob.size_bytes)),
        total_bytes=total_bytes,
        unused_bytes=store.blobs.disk_bytes(besides=sizes),
    )


def _blobs_by_model(store: ModelStore) -> Mapping[str, frozenset[Digest]]:
    found: dict[str, frozenset[Digest]] = {}
    for name in store.names():
        with suppress(ModelNotFound, StoreError):
            manifest = parse_manifest(store.read_manifest(name))
            found[name.short] = frozenset(layer.digest for layer in manifest.blobs)
    return found


def _own_size(blobs: BlobStore, digest: Digest) -> int:
    """0 for what is missing, and for what lies in a store that is only read."""
    try:
        return blobs.size_bytes(digest) if blobs.path(digest) == blobs.place(digest) else 0
    except BlobNotFound:
        return 0
