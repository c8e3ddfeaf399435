"""gc: what goes, what stays, and what nobody may touch."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from olla.errors import StoreError
from olla.registry.blobs import STALE_S
from olla.registry.digest import Digest
from olla.registry.manifest import MediaType
from olla.registry.store import ModelStore
from tests.registry.models import GGUF, name, put_model

ORPHAN = b"nobody needs this"


@pytest.fixture
def orphan(store: ModelStore, root: Path) -> Path:
    put_model(store, "a", (MediaType.MODEL, GGUF))
    store.blobs.put(ORPHAN)
    return root / "blobs" / Digest.of(ORPHAN).file_name


def test_only_what_is_old_goes_unless_all_is_asked_for(store: ModelStore, orphan: Path) -> None:
    assert store.collect() == ()

    (removed,) = store.collect(min_age_s=0)

    assert (removed.file_name, removed.size_bytes) == (orphan.name, len(ORPHAN))
    assert not orphan.exists()
    store.resolve(name("a")).check_files()


def test_a_dry_run_removes_nothing(store: ModelStore, orphan: Path) -> None:
    os.utime(orphan, (0, time.time() - 2 * STALE_S))

    would_go = store.collect(dry_run=True)

    assert orphan.exists()
    assert store.collect() == would_go != ()


def test_what_is_held_stays(store: ModelStore, orphan: Path) -> None:
    with store.hold() as hold:
        hold.add(Digest.of(ORPHAN))
        assert store.collect(min_age_s=0) == ()

    assert len(store.collect(min_age_s=0)) == 1


def test_what_is_being_written_stays(store: ModelStore, orphan: Path) -> None:
    with store.blobs.writer() as writer:
        writer.write(b"new")
        store.collect(min_age_s=0)
        digest = writer.commit()

    assert store.blobs.has(digest)


def test_a_broken_manifest_stops_it_and_is_named(
    store: ModelStore, orphan: Path, root: Path
) -> None:
    put_model(store, "b", (MediaType.SYSTEM, b"b"))
    (root / "manifests" / name("b").path).write_text("{")

    with pytest.raises(StoreError, match=r"manifest of b:latest is broken.*olla rm b:latest"):
        store.collect(min_age_s=0)
    store.delete(name("b"))
    assert orphan.name in {file.file_name for file in store.collect(min_age_s=0)}


def test_it_cleans_although_pruning_is_off(root: Path, orphan: Path) -> None:
    assert len(ModelStore(root, prune=False).collect(min_age_s=0)) == 1
