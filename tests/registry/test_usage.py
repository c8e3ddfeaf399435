"""What models take of the disk: together, alone, and nobody's."""

from __future__ import annotations

from pathlib import Path

from olla.registry.manifest import MediaType
from olla.registry.store import ModelStore
from olla.registry.usage import usage_of
from tests.registry.models import GGUF, name, put_model

MODEL, SYSTEM = MediaType.MODEL, MediaType.SYSTEM


def test_deleting_frees_what_usage_says(store: ModelStore, root: Path) -> None:
    put_model(store, "a", (MODEL, GGUF), (SYSTEM, b"a" * 1000))
    put_model(store, "b", (MODEL, GGUF), (SYSTEM, b"b" * 2000))
    before = usage_of(store)

    store.delete(name("b"))

    freed = {model.name: model.freed_bytes for model in before.models}
    assert freed == {"a:latest": 1000, "b:latest": 2000}
    assert before.total_bytes - usage_of(store).total_bytes == 2000
    assert (
        before.total_bytes == sum(path.stat().st_size for path in (root / "blobs").iterdir()) + 2000
    )


def test_who_shares_what_the_largest_first(store: ModelStore) -> None:
    put_model(store, "a", (MODEL, GGUF))
    put_model(store, "b", (MODEL, GGUF))

    shared = usage_of(store).shared

    assert [blob.size_bytes for blob in shared] == sorted(
        (blob.size_bytes for blob in shared), reverse=True
    )
    assert shared[0].size_bytes == len(GGUF)
    assert {blob.models for blob in shared} == {("a:latest", "b:latest")}


def test_a_blob_that_one_model_has_twice_counts_once(store: ModelStore) -> None:
    put_model(store, "a", (MODEL, GGUF), (SYSTEM, GGUF))

    (model,) = usage_of(store).models

    assert model.size_bytes == usage_of(store).total_bytes
    assert model.size_bytes < 2 * len(GGUF)


def test_what_no_model_needs(store: ModelStore, root: Path) -> None:
    put_model(store, "a", (MODEL, GGUF))
    store.blobs.put(b"x" * 5000)
    with (root / "blobs" / "sha256-aa-partial").open("wb") as partial:
        partial.truncate(10**12)  # a hole takes nothing

    assert usage_of(store).unused_bytes == 5000


def test_broken_and_missing_things_count_nothing(store: ModelStore, root: Path) -> None:
    put_model(store, "a", (MODEL, GGUF))
    for path in (root / "blobs").iterdir():
        path.unlink()
    broken = root / "manifests" / "registry.ollama.ai" / "library" / "b" / "latest"
    broken.parent.mkdir(parents=True)
    broken.write_text("no JSON")

    usage = usage_of(store)

    assert [(model.name, model.size_bytes) for model in usage.models] == [("a:latest", 0)]
    assert usage.total_bytes == 0


def test_an_extra_stores_bytes_are_not_ours(root: Path, tmp_path: Path) -> None:
    extra = ModelStore(tmp_path / "extra")
    put_model(extra, "far", (MODEL, GGUF))

    usage = usage_of(ModelStore(root, extra=(tmp_path / "extra",)))

    assert [(model.name, model.freed_bytes) for model in usage.models] == [("far:latest", 0)]
