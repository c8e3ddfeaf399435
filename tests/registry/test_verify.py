"""Every stored byte hashed again: what is broken is named, what is whole passes."""

from __future__ import annotations

from pathlib import Path

import pytest

from olla.errors import BlobCorrupt, ModelNotFound
from olla.registry.digest import Digest
from olla.registry.manifest import MediaType
from olla.registry.store import ModelStore
from olla.registry.verify import verify
from olla.requests import Progress
from tests.registry.models import GGUF, name, put_model

MODEL, SYSTEM = MediaType.MODEL, MediaType.SYSTEM
LARGE = bytes(range(256)) * 20_000


def statuses(store: ModelStore, *names: str) -> list[str]:
    """The steps, and the error in the end."""
    steps: list[str] = []
    try:
        steps.extend(step.status for step in verify(store, tuple(name(text) for text in names)))
    except BlobCorrupt as error:
        steps.append(str(error))
    return steps


def blob(root: Path, data: bytes) -> Path:
    return root / "blobs" / Digest.of(data).file_name


@pytest.fixture
def models(store: ModelStore) -> None:
    put_model(store, "a", (MODEL, GGUF), (SYSTEM, b"a"))
    put_model(store, "b", (MODEL, GGUF), (SYSTEM, b"b"))
    put_model(store, "c", (SYSTEM, b"c"))


def test_an_empty_store_is_whole(store: ModelStore) -> None:
    assert statuses(store) == ["verifying models", "success"]


@pytest.mark.usefixtures("models")
def test_what_is_whole_passes(store: ModelStore) -> None:
    assert statuses(store) == ["verifying models", "success"]


@pytest.mark.usefixtures("models")
def test_a_shared_blob_breaks_every_model_that_has_it(store: ModelStore, root: Path) -> None:
    blob(root, GGUF).write_bytes(GGUF[:-1] + b"x")

    assert statuses(store) == [
        "verifying models",
        "a:latest is broken: its model has other bytes than it should",
        "b:latest is broken: its model has other bytes than it should",
        "2 of 3 models are broken: remove with olla rm a:latest b:latest, then pull or create "
        "them again",
    ]


@pytest.mark.usefixtures("models")
@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        (lambda path: path.unlink(), "its system is missing"),
        (lambda path: path.write_bytes(b"xy"), "its system has 2 bytes, not 1"),
        (lambda path: path.write_bytes(b"x"), "its system has other bytes than it should"),
    ],
)
def test_how_a_blob_can_be_broken(
    store: ModelStore, root: Path, break_it: object, reason: str
) -> None:
    assert callable(break_it)
    break_it(blob(root, b"c"))

    assert statuses(store)[1:] == [
        f"c:latest is broken: {reason}",
        "1 of 3 models is broken: remove with olla rm c:latest, then pull or create it again",
    ]


@pytest.mark.usefixtures("models")
def test_removing_and_pulling_again_is_the_way_out(store: ModelStore, root: Path) -> None:
    blob(root, b"c").write_bytes(b"x")

    store.delete(name("c"))
    put_model(store, "c", (SYSTEM, b"c"))

    assert statuses(store)[-1] == "success"


@pytest.mark.usefixtures("models")
def test_only_the_models_that_are_named(store: ModelStore, root: Path) -> None:
    blob(root, b"c").write_bytes(b"x")

    assert statuses(store, "A", "b")[-1] == "success"
    with pytest.raises(ModelNotFound):
        statuses(store, "a", "nobody")


def test_a_manifest_that_cannot_be_read(store: ModelStore, root: Path) -> None:
    put_model(store, "a", (MODEL, GGUF))
    (root / "manifests" / name("a").path).write_text("{")

    assert statuses(store)[1] == "a:latest is broken: broken manifest: it is not JSON"


@pytest.mark.usefixtures("models")
def test_a_model_that_is_deleted_meanwhile_is_not_broken(store: ModelStore) -> None:
    steps = verify(store)
    next(steps)
    for text in ("a", "b", "c"):
        store.delete(name(text))

    assert [step.status for step in steps] == ["success"]


def test_progress_of_a_large_blob_ends_with_all_of_it(store: ModelStore) -> None:
    put_model(store, "a", (MODEL, LARGE))

    told = [step for step in verify(store) if step.digest]

    assert told[-1] == Progress(
        f"verifying {Digest.of(LARGE).short}", str(Digest.of(LARGE)), len(LARGE), len(LARGE)
    )
