"""BlobStore: a blob has its name only when its bytes are right and on the disk."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from olla.errors import BlobNotFound, DigestMismatch, StoreError
from olla.registry.blobs import MAX_SMALL_BLOB_BYTES, STALE_S, BlobStore
from olla.registry.digest import Digest
from tests.registry.models import blob_names

DATA = b"some bytes"
DIGEST = Digest.of(DATA)


@pytest.fixture
def blobs(root: Path) -> BlobStore:
    return BlobStore(root)


def age(path: Path, seconds: float) -> Path:
    then = time.time() - seconds
    os.utime(path, (then, then))
    return path


def test_a_blob_lies_under_its_digest(root: Path, blobs: BlobStore) -> None:
    assert not blobs.has(DIGEST)

    digest = blobs.put(DATA)

    assert digest == DIGEST
    assert blobs.path(digest) == root / "blobs" / f"sha256-{DIGEST.hex}"
    assert blobs.path(digest).read_bytes() == DATA
    assert blobs.path(digest).stat().st_mode & 0o777 == 0o644
    assert blobs.has(digest)
    assert blobs.size_bytes(digest) == len(DATA)
    assert blobs.read(digest) == DATA


def test_pieces_make_one_blob(blobs: BlobStore) -> None:
    with blobs.writer(DIGEST) as writer:
        for byte in DATA:
            writer.write(bytes([byte]))
        assert writer.commit() == DIGEST

    assert blobs.read(DIGEST) == DATA


def test_a_mismatch_keeps_nothing(root: Path, blobs: BlobStore) -> None:
    expected = Digest.of(b"other")

    with blobs.writer(expected) as writer, pytest.raises(DigestMismatch) as caught:
        writer.write(DATA)
        writer.commit()

    assert str(caught.value) == f'digest mismatch, expected "{expected}", got "{DIGEST}"'
    assert blob_names(root) == set()


def test_leaving_without_commit_keeps_nothing(root: Path, blobs: BlobStore) -> None:
    with pytest.raises(KeyboardInterrupt), blobs.writer() as writer:
        writer.write(DATA)
        raise KeyboardInterrupt

    assert blob_names(root) == set()


def test_nothing_has_its_name_before_commit(blobs: BlobStore) -> None:
    with blobs.writer(DIGEST) as writer:
        writer.write(DATA)
        assert not blobs.has(DIGEST)
        writer.commit()


def test_writing_again_makes_an_old_blob_young(blobs: BlobStore) -> None:
    path = age(blobs.path(blobs.put(DATA)), 2 * STALE_S)

    blobs.put(DATA)

    assert time.time() - path.stat().st_mtime < 60


@pytest.mark.parametrize("method", ["size_bytes", "read"])
def test_a_missing_blob_is_not_found(blobs: BlobStore, method: str) -> None:
    with pytest.raises(BlobNotFound) as caught:
        getattr(blobs, method)(DIGEST)
    assert str(caught.value) == f'blob "{DIGEST}" not found'


def test_weights_are_not_read_as_a_small_blob(blobs: BlobStore) -> None:
    path = blobs.path(blobs.put(DATA))
    os.truncate(path, MAX_SMALL_BLOB_BYTES + 1)  # sparse: takes no space

    with pytest.raises(StoreError, match="has 67108865 bytes, too many for what it should be"):
        blobs.read(DIGEST)


def test_a_store_that_is_no_directory_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file")
    blobs = BlobStore(tmp_path / "models")

    with pytest.raises(StoreError, match=r"^cannot write to the model store: Not a directory$"):
        blobs.put(DATA)
    with pytest.raises(StoreError, match=r"^cannot read blob sha256:.*: Not a directory$"):
        blobs.size_bytes(DIGEST)
    assert not blobs.has(DIGEST)


def test_a_full_disk_is_a_store_error_and_keeps_nothing(root: Path, blobs: BlobStore) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(StoreError, match=r"^cannot write blob.*: File too large$"):
            blobs.put(bytes(1_000_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert blob_names(root) == set()


def test_names_with_a_colon_are_renamed(root: Path, blobs: BlobStore) -> None:
    (root / "blobs").mkdir(parents=True)
    (root / "blobs" / str(DIGEST)).write_bytes(DATA)
    (root / "blobs" / "sha256:not-a-digest").write_bytes(DATA)

    blobs.rename_old_names()

    assert blob_names(root) == {DIGEST.file_name, "sha256:not-a-digest"}


def test_stale_files_go_and_young_or_needed_ones_stay(root: Path, blobs: BlobStore) -> None:
    needed = Digest.of(b"needed")
    blobs.put(b"needed")
    young = blobs.put(b"young")
    old = blobs.put(b"old")
    for name in ("sha256-123456", f"{needed.file_name}-partial", f"{old.file_name}-partial-0"):
        (root / "blobs" / name).touch()
    for path in (root / "blobs").iterdir():
        age(path, STALE_S + 10 if path.name != young.file_name else STALE_S - 10)

    would_go = blobs.remove_stale({needed}, dry_run=True)
    removed = blobs.remove_stale({needed})

    assert len(removed) == 3
    assert would_go == removed
    assert blob_names(root) == {
        needed.file_name, f"{needed.file_name}-partial", young.file_name
    }  # fmt: skip


def test_a_blob_that_is_being_written_is_not_stale(root: Path, blobs: BlobStore) -> None:
    with blobs.writer(DIGEST) as writer:
        writer.write(DATA)
        (temporary,) = (root / "blobs").iterdir()
        age(temporary, 2 * STALE_S)

        assert len(blobs.remove_stale(set())) == 0
        writer.commit()

    assert blobs.has(DIGEST)


WRITE_AND_DIE = """
import os, signal, sys
from pathlib import Path
from olla.registry.blobs import BlobStore

with BlobStore(Path(sys.argv[1])).writer() as writer:
    writer.write(b"x" * 1_000_000)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_writer_left_becomes_stale(root: Path, blobs: BlobStore) -> None:
    subprocess.run([sys.executable, "-c", WRITE_AND_DIE, root], check=False)
    (temporary,) = (root / "blobs").iterdir()
    assert temporary.name.startswith(".olla-")

    age(temporary, STALE_S + 10)

    assert len(blobs.remove_stale(set())) == 1
    assert blob_names(root) == set()


def test_a_folder_that_a_conversion_left_goes_when_nothing_in_it_is_young(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path)
    folder = blobs.directory / ".olla-conversion" / "model"
    folder.mkdir(parents=True)
    (folder / "config.json").write_bytes(b"x" * 4096)
    young = blobs.remove_stale(set())
    for path in (folder / "config.json", folder, folder.parent):
        os.utime(path, (1, 1))

    would_go = blobs.remove_stale(set(), dry_run=True)
    removed = blobs.remove_stale(set())

    assert young == ()
    assert would_go == removed
    assert [leftover.file_name for leftover in removed] == [".olla-conversion"]
    assert not folder.parent.exists()
