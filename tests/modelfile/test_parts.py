"""Uploads in parts become one blob, by the same step for what is pulled and what is created."""

from __future__ import annotations

from pathlib import Path

import pytest

from olla.errors import BadInput, FormatError, StoreError
from olla.modelfile.parts import find_joined, join_uploads
from olla.modelfile.uploads import Upload
from olla.modelfile.weights import import_gguf
from olla.registry.blobs import BlobStore
from olla.registry.digest import Digest
from olla.registry.store import ModelStore
from olla.requests import Progress
from tests.gguf_split import split_gguf
from tests.modelfile.conftest import write_gguf


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


@pytest.fixture
def parts(tmp_path: Path, gguf_file: Path) -> list[Path]:
    return split_gguf(gguf_file, tmp_path / "t", 6)


def uploads(blobs: BlobStore, *paths: Path) -> tuple[Upload, ...]:
    return tuple(
        Upload(path.name, digest, blobs.size_bytes(digest), blobs.path(digest))
        for path, digest in ((path, blobs.put(path.read_bytes())) for path in paths)
    )


def join(store: ModelStore, *paths: Path) -> tuple[tuple[Upload, ...], list[Progress]]:
    with store.hold() as hold:
        *steps, joined = join_uploads(uploads(store.blobs, *paths), store.blobs, hold)
    assert isinstance(joined, tuple)
    return joined, [step for step in steps if isinstance(step, Progress)]


def test_the_parts_become_one_file_beside_what_is_whole(
    store: ModelStore, parts: list[Path], tmp_path: Path
) -> None:
    projector = write_gguf(tmp_path / "mmproj.gguf", {"general.type": "mmproj"}, "clip")

    joined, steps = join(store, *reversed(parts), projector)

    assert [upload.name for upload in joined] == ["mmproj.gguf", "t.gguf"]
    whole = joined[1]
    assert whole.digest == Digest.of(whole.path.read_bytes())
    assert steps[-1] == Progress(
        "joining the 3 parts of t.gguf", "", whole.size_bytes, whole.size_bytes
    )
    assert import_gguf(joined).config.model_type == "21K"  # of all parts


def test_what_was_joined_is_not_joined_again(store: ModelStore, parts: list[Path]) -> None:
    first, _ = join(store, *parts)

    again, steps = join(store, *parts)

    assert (again, steps) == (first, [])


def test_a_whole_that_is_gone_is_joined_again(store: ModelStore, parts: list[Path]) -> None:
    [whole], _ = join(store, *parts)
    store.blobs.remove(whole.digest)

    assert store.blobs.joined() == {}
    assert join(store, *parts)[0] == (whole,)


def test_what_was_joined_is_held_when_it_is_found(store: ModelStore, parts: list[Path]) -> None:
    [whole], _ = join(store, *parts)
    [digests] = store.blobs.joined()

    with store.hold() as hold:
        assert find_joined(digests, store.blobs, hold) == whole.digest
        store.collect(min_age_s=0)
        assert store.blobs.has(whole.digest)
    store.collect(min_age_s=0)
    assert list(store.blobs.directory.iterdir()) == []


def test_a_broken_note_of_parts_is_not_believed(store: ModelStore, parts: list[Path]) -> None:
    [whole], _ = join(store, *parts)
    note = store.blobs.directory / f"{whole.digest.file_name}-parts"
    note.write_bytes(b"\xff../../etc/passwd")

    assert store.blobs.joined() == {}


def test_a_broken_part_is_named_and_nothing_is_lost(store: ModelStore, parts: list[Path]) -> None:
    parts[1].write_bytes(parts[1].read_bytes()[:-64])

    with pytest.raises(FormatError, match=r"t-00002-of-00003.gguf: .*past the end of the file"):
        join(store, *parts)
    assert len(list(store.blobs.directory.iterdir())) == 3


def test_a_disk_without_room_for_both(
    store: ModelStore, parts: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        f_bavail, f_frsize = 1, 512

    monkeypatch.setattr("os.statvfs", lambda path: Full)

    with pytest.raises(StoreError, match="no space left on device"):
        join(store, *parts)
    assert len(list(store.blobs.directory.iterdir())) == 3


def test_a_part_under_another_name_says_what_it_should_be_called(
    store: ModelStore, parts: list[Path]
) -> None:
    renamed = parts[0].rename(parts[0].with_name("first.gguf"))

    with pytest.raises(BadInput, match=r"first.gguf is a part .* call them x-00001-of-00003.gguf"):
        import_gguf(uploads(store.blobs, renamed))
