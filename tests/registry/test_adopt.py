"""Files of other programs that become blobs: linked where possible, and always checked."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from olla.errors import StoreError
from olla.registry.adopt import adopt
from olla.registry.blobs import STALE_S, BlobStore
from olla.registry.digest import Digest

DATA = bytes(range(256)) * 10_000
DIGEST = Digest.of(DATA)


@pytest.fixture
def blobs(root: Path) -> BlobStore:
    return BlobStore(root)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "cached"
    path.write_bytes(DATA)
    return path


def run(blobs: BlobStore, path: Path, digest: Digest = DIGEST) -> tuple[list[int], bool]:
    """What was told on the way, and the result."""
    adopting, told = adopt(blobs, path, digest), list[int]()
    while True:
        try:
            told.append(next(adopting))
        except StopIteration as end:
            return told, end.value


def names(blobs: BlobStore) -> list[str]:
    return sorted(path.name for path in blobs.directory.iterdir())


def test_the_file_becomes_a_blob_without_a_copy(blobs: BlobStore, file: Path) -> None:
    told, is_adopted = run(blobs, file)

    assert is_adopted
    assert told == sorted(told) and told[-1] == len(DATA)
    assert blobs.path(DIGEST).read_bytes() == DATA
    assert names(blobs) == [DIGEST.file_name]


def test_the_end_of_a_link_is_what_counts(blobs: BlobStore, file: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(file)

    assert run(blobs, link)[1]
    assert not blobs.path(DIGEST).is_symlink()


def test_across_file_systems_it_is_a_copy(blobs: BlobStore) -> None:
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == Path("/tmp").stat().st_dev:
        pytest.skip("there is no second file system")
    path = memory / f"olla-test-{os.getpid()}"
    path.write_bytes(DATA)
    try:
        assert run(blobs, path)[1]
    finally:
        path.unlink()
    assert blobs.path(DIGEST).read_bytes() == DATA


def test_other_bytes_are_not_adopted_and_stay_where_they_are(blobs: BlobStore, file: Path) -> None:
    file.write_bytes(DATA[:-1] + b"x")

    assert not run(blobs, file)[1]
    assert names(blobs) == []
    assert file.read_bytes() == DATA[:-1] + b"x"


def test_what_is_not_there_is_not_adopted(blobs: BlobStore, tmp_path: Path) -> None:
    assert not run(blobs, tmp_path / "none")[1]
    assert names(blobs) == []


def test_giving_up_leaves_nothing(blobs: BlobStore, file: Path) -> None:
    adopting = adopt(blobs, file, DIGEST)
    next(adopting)
    adopting.close()

    assert names(blobs) == []


def test_an_old_file_that_is_being_checked_is_not_stale(blobs: BlobStore, file: Path) -> None:
    os.utime(file, (0, file.stat().st_mtime - 2 * STALE_S))
    adopting = adopt(blobs, file, DIGEST)
    next(adopting)

    assert blobs.remove_stale(set()) == ()
    assert list(adopting)
    assert blobs.has(DIGEST)


def test_a_store_that_cannot_be_written_says_so(tmp_path: Path, file: Path) -> None:
    (tmp_path / "models").write_text("a file")

    with pytest.raises(StoreError, match="cannot write blob"):
        run(BlobStore(tmp_path / "models"), file)
