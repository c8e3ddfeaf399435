"""Stores behind the first: models and blobs are read from them, and nothing is written there."""

from __future__ import annotations

from pathlib import Path

import pytest

from olla.errors import StoreError
from olla.registry.manifest import MediaType
from olla.registry.store import ModelStore
from tests.registry.models import GGUF, name, put_model

MODEL = MediaType.MODEL
SYSTEM = MediaType.SYSTEM


@pytest.fixture
def shared(tmp_path: Path) -> ModelStore:
    shared = ModelStore(tmp_path / "shared")
    put_model(shared, "far", (MODEL, GGUF))
    put_model(shared, "both", (MODEL, GGUF), (SYSTEM, b"far"))
    return shared


@pytest.fixture
def store(tmp_path: Path, shared: ModelStore) -> ModelStore:
    store = ModelStore(tmp_path / "models", extra=(tmp_path / "none", tmp_path / "shared"))
    put_model(store, "near", (SYSTEM, b"near"))
    put_model(store, "both", (MODEL, GGUF), (SYSTEM, b"near"))
    return store


def tree(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_models_of_all_stores_are_listed_once(store: ModelStore) -> None:
    listed = {model.name.short: model.system for model in store.list()}

    assert listed == {"near:latest": "near", "far:latest": "", "both:latest": "near"}


def test_a_model_that_is_only_there_is_found_in_any_case(store: ModelStore) -> None:
    model = store.resolve(name("FAR"))

    assert model.name.short == "far:latest"
    assert model.files["model.gguf"].read_bytes() == GGUF
    model.check_files()


def test_a_copy_needs_no_bytes_of_its_own(store: ModelStore, tmp_path: Path) -> None:
    store.delete(name("both"))
    before = sum(len(data) for data in tree(tmp_path / "models" / "blobs").values())

    store.copy(name("far"), name("mine"))

    assert store.resolve(name("mine")).files == store.resolve(name("far")).files
    assert sum(len(data) for data in tree(tmp_path / "models" / "blobs").values()) == before


def test_what_is_deleted_here_shows_what_is_there(store: ModelStore) -> None:
    store.delete(name("both"))

    assert store.resolve(name("both")).system == "far"


def test_nothing_is_deleted_there(store: ModelStore, shared: ModelStore, tmp_path: Path) -> None:
    before = tree(tmp_path / "shared")

    with pytest.raises(StoreError, match=r"far:latest lies in .*/shared, where models are only"):
        store.delete(name("far"))
    store.delete(name("both"))
    store.collect(min_age_s=0)
    store.prune()

    assert tree(tmp_path / "shared") == before


def test_a_store_that_went_away_leaves_the_others(store: ModelStore, tmp_path: Path) -> None:
    store.copy(name("far"), name("mine"))
    (tmp_path / "shared").rename(tmp_path / "unmounted")

    assert {model.name.short for model in store.list()} >= {"near:latest", "both:latest"}
