"""ModelStore: names, listing, putting, copying, deleting and pruning, by one caller at a time."""

from __future__ import annotations

import json
import logging
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from olla.errors import ModelNotFound, StoreError
from olla.names import ModelName
from olla.registry.blobs import STALE_S
from olla.registry.digest import Digest
from olla.registry.manifest import CONFIG_TYPE, Layer, Manifest, MediaType, format_manifest
from olla.registry.store import ModelStore
from tests.registry.models import (
    GGUF,
    add_manifest,
    blob_names,
    name,
    put_model,
    verify,
)


def texts(store: ModelStore) -> list[str]:
    return [model.name.short for model in store.list()]


def manifest_path(root: Path, text: str) -> Path:
    return root / "manifests" / name(text).path


def age_everything(root: Path, seconds: float = STALE_S + 10) -> None:
    then = time.time() - seconds
    for path in (root / "blobs").iterdir():
        os.utime(path, (then, then))


def test_the_layout_is_ollamas(root: Path, store: ModelStore) -> None:
    manifest = put_model(store, "smollm2:135m")

    path = root / "manifests/registry.ollama.ai/library/smollm2/135m"
    assert path.read_bytes() == format_manifest(manifest)
    assert path.stat().st_mode & 0o777 == 0o644
    assert blob_names(root) == {layer.digest.file_name for layer in manifest.blobs}


def test_the_digest_is_that_of_the_manifest_bytes(store: ModelStore) -> None:
    data = add_manifest(store, (MediaType.MODEL, GGUF)).replace(b",", b", ")

    store.put(name("m"), data)

    assert store.resolve(name("m")).digest == Digest.of(data)


def test_a_tree_that_ollama_wrote_is_read(root: Path, store: ModelStore) -> None:
    """As `ollama pull` leaves it: its config has a rootfs, its layers types we know and not."""
    config = b'{"model_format":"gguf","model_family":"llama","rootfs":{"type":"layers"}}'
    contents = {
        "application/vnd.ollama.image.model": GGUF,
        "application/vnd.ollama.image.template": b"{{ .Prompt }}",
        "application/vnd.ollama.image.license": b"MIT",
        "application/vnd.ollama.image.params": b'{"stop":["<|im_end|>"]}',
    }
    (root / "blobs").mkdir(parents=True)
    for data in (config, *contents.values()):
        (root / "blobs" / f"sha256-{Digest.of(data).hex}").write_bytes(data)
    layers = [
        {"mediaType": kind, "digest": str(Digest.of(data)), "size": len(data)}
        for kind, data in contents.items()
    ]
    head = {"mediaType": CONFIG_TYPE, "digest": str(Digest.of(config)), "size": len(config)}
    path = manifest_path(root, "llama3.2:1b")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"schemaVersion": 2, "config": head, "layers": layers}))

    model = store.resolve(name("llama3.2:1b"))

    assert model.options.stop == ("<|im_end|>",)
    assert model.template == "{{ .Prompt }}"
    assert texts(store) == ["llama3.2:1b"]


@pytest.mark.parametrize("text", ["m", "M:LATEST", "library/M"])
def test_a_model_is_found_in_any_case(store: ModelStore, text: str) -> None:
    put_model(store, "m")

    assert store.resolve(name(text)).name == name("m")


@pytest.mark.parametrize("text", ["m:other", "n", "x/m", "hf.co/library/m"])
def test_an_unknown_model_is_not_found(store: ModelStore, text: str) -> None:
    put_model(store, "m")

    with pytest.raises(ModelNotFound) as caught:
        store.resolve(name(text))
    assert str(caught.value) == f"model '{name(text).short}' not found"


def test_an_empty_store_has_no_models(root: Path, store: ModelStore) -> None:
    assert store.list() == ()
    with pytest.raises(ModelNotFound):
        store.resolve(name("m"))
    with pytest.raises(ModelNotFound):
        store.delete(name("m"))
    assert store.prune() == 0


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("FOO/bar:Q4", "Foo/Bar:q4"),
        ("foo/bar:q8", "Foo/Bar:q8"),
        ("foo/Other:Q4", "Foo/Other:Q4"),
        ("unknown/BAR:q4", "unknown/BAR:q4"),
        ("HF.co/foo/bar", "hf.co/foo/bar"),
        ("REGISTRY.ollama.ai/foo/baR:q4", "registry.ollama.ai/Foo/Bar:q4"),
    ],
)
def test_a_name_takes_the_stores_spelling_part_by_part(
    store: ModelStore, asked: str, found: str
) -> None:
    put_model(store, "Foo/Bar:q4")
    put_model(store, "hf.co/a/b")

    assert store.find(name(asked)) == name(found)


def test_the_exact_spelling_wins(root: Path, store: ModelStore) -> None:
    put_model(store, "m")
    upper = manifest_path(root, "M")
    upper.parent.mkdir()
    upper.write_bytes(add_manifest(store, (MediaType.SYSTEM, b"upper"), (MediaType.MODEL, GGUF)))

    assert store.resolve(name("M")).system == "upper"
    assert store.resolve(name("m")).system == ""


def test_finding_keeps_the_scheme(store: ModelStore) -> None:
    put_model(store, "http://Localhost:5000/n/m")

    found = store.find(name("http://localhost:5000/n/M"))

    assert found == ModelName("Localhost:5000", "n", "m", "latest", scheme="http")


def test_putting_in_another_case_makes_no_second_model(store: ModelStore) -> None:
    put_model(store, "Model")
    put_model(store, "mODEL")

    assert texts(store) == ["Model:latest"]


def test_the_newest_model_is_listed_first(root: Path, store: ModelStore) -> None:
    for index, text in enumerate(["b", "c", "a"]):
        put_model(store, text)
        os.utime(manifest_path(root, text), (1000 + index, 1000 + index))

    assert texts(store) == ["a:latest", "c:latest", "b:latest"]


@pytest.mark.parametrize("data", [b"", b"{", b'{"config":1}'])
def test_broken_manifests_are_skipped_with_a_warning(
    root: Path, store: ModelStore, caplog: pytest.LogCaptureFixture, data: bytes
) -> None:
    put_model(store, "good")
    manifest_path(root, "bad").parent.mkdir()
    manifest_path(root, "bad").write_bytes(data)

    assert texts(store) == ["good:latest"]
    assert "registry.ollama.ai/library/bad:latest" in caplog.text
    with pytest.raises(StoreError, match="broken manifest"):
        store.resolve(name("bad"))


def test_files_that_are_no_manifests_are_skipped(root: Path, store: ModelStore) -> None:
    put_model(store, "good")
    base = root / "manifests" / "registry.ollama.ai"
    (base / ".DS_Store").write_text("x")
    (base / "library" / "good" / ".hidden").write_text("x")
    (base / "library" / "good" / "deeper").mkdir()
    (base / "library" / "good" / "deeper" / "file").write_text("x")

    assert texts(store) == ["good:latest"]


def test_a_model_whose_small_blob_is_gone_is_broken(store: ModelStore) -> None:
    manifest = put_model(store, "m")
    store.blobs.remove(manifest.config.digest)

    with pytest.raises(StoreError, match=r'^model m:latest is broken: blob "sha256:.*not found$'):
        store.resolve(name("m"))
    assert store.list() == ()


def test_a_manifest_is_not_written_before_its_blobs(store: ModelStore) -> None:
    missing = Digest.of(b"missing")
    layer = Layer(MediaType.MODEL, missing, 7)

    with pytest.raises(StoreError) as caught:
        store.put(name("m"), format_manifest(Manifest(layer)))

    assert str(caught.value) == f'cannot write manifest: blob "{missing}" not found'
    assert store.list() == ()


def test_a_manifest_that_lies_about_a_size_is_refused(store: ModelStore) -> None:
    digest = store.blobs.put(b"seven b")

    with pytest.raises(StoreError, match="has 7 bytes, not 8"):
        store.put(name("m"), format_manifest(Manifest(Layer("x", digest, 8))))


def test_no_manifest_is_refused(store: ModelStore) -> None:
    with pytest.raises(StoreError, match="broken manifest"):
        store.put(name("m"), b"no manifest")
    assert store.list() == ()


def test_replacing_a_model_removes_what_only_it_used(root: Path, store: ModelStore) -> None:
    old = put_model(store, "m", (MediaType.MODEL, b"shared"), (MediaType.SYSTEM, b"old"))
    put_model(store, "other", (MediaType.MODEL, b"shared"))
    new = put_model(store, "m", (MediaType.MODEL, b"new"))

    assert not store.blobs.has(old.layers[1].digest)
    assert store.blobs.has(old.layers[0].digest)
    assert store.blobs.has(new.layers[0].digest)
    verify(store, "m")
    verify(store, "other")


def test_without_pruning_replaced_blobs_stay(root: Path) -> None:
    store = ModelStore(root, prune=False)
    old = put_model(store, "m", (MediaType.MODEL, b"old"))
    put_model(store, "m", (MediaType.MODEL, b"new"))

    assert store.blobs.has(old.layers[0].digest)


def test_copying_shares_the_blobs(root: Path, store: ModelStore) -> None:
    put_model(store, "m")
    before = blob_names(root)

    store.copy(name("M"), name("me/copy:v1"))

    assert blob_names(root) == before
    assert store.resolve(name("me/copy:v1")).digest == store.resolve(name("m")).digest


@pytest.mark.parametrize("target", ["m", "M:Latest"])
def test_copying_onto_itself_changes_nothing(root: Path, store: ModelStore, target: str) -> None:
    put_model(store, "m")
    before = manifest_path(root, "m").stat()

    store.copy(name("m"), name(target))

    assert manifest_path(root, "m").stat() == before
    assert texts(store) == ["m:latest"]


def test_copying_what_is_not_there_is_not_found(store: ModelStore) -> None:
    put_model(store, "b")

    with pytest.raises(ModelNotFound):
        store.copy(name("a"), name("b"))
    verify(store, "b")


def test_copying_over_a_model_removes_what_only_it_used(store: ModelStore) -> None:
    put_model(store, "a")
    old = put_model(store, "b", (MediaType.MODEL, b"old"))

    store.copy(name("a"), name("b"))

    assert not store.blobs.has(old.layers[0].digest)


def test_deleting_removes_blobs_and_empty_directories(root: Path, store: ModelStore) -> None:
    put_model(store, "hf.co/a/b:c")

    store.delete(name("HF.co/A/b:C"))

    assert blob_names(root) == set()
    assert list((root / "manifests").iterdir()) == []


def test_deleting_keeps_what_others_use(root: Path, store: ModelStore) -> None:
    put_model(store, "a:1", (MediaType.MODEL, b"shared"), (MediaType.SYSTEM, b"only a"))
    put_model(store, "a:2", (MediaType.MODEL, b"shared"))

    store.delete(name("a:1"))

    verify(store, "a:2")
    assert Digest.of(b"only a").file_name not in blob_names(root)
    assert texts(store) == ["a:2"]


def test_a_broken_manifest_can_be_deleted(root: Path, store: ModelStore) -> None:
    put_model(store, "m")
    path = manifest_path(root, "m")
    path.write_bytes(path.read_bytes()[:-20])

    store.delete(name("m"))

    assert not path.exists()
    assert store.list() == ()


def test_deleting_spares_what_a_broken_manifest_still_names(root: Path, store: ModelStore) -> None:
    shared = put_model(store, "broken", (MediaType.MODEL, b"shared"))
    put_model(store, "m", (MediaType.MODEL, b"shared"))
    path = manifest_path(root, "broken")
    path.write_bytes(path.read_bytes()[:-5])

    store.delete(name("m"))

    assert store.blobs.has(shared.layers[0].digest)


def test_deleting_what_is_not_there_is_not_found(store: ModelStore) -> None:
    with pytest.raises(ModelNotFound, match="model 'm:latest' not found"):
        store.delete(name("m"))


def test_pruning_removes_old_blobs_that_nothing_names(root: Path, store: ModelStore) -> None:
    manifest = put_model(store, "m")
    store.blobs.put(b"orphan")
    (root / "blobs" / "sha256-1-partial").touch()
    age_everything(root)
    young = store.blobs.put(b"young")

    assert store.prune() == 2

    wanted = {layer.digest.file_name for layer in manifest.blobs} | {young.file_name}
    assert blob_names(root) == wanted


def test_pruning_takes_nothing_while_a_manifest_is_broken(
    root: Path, store: ModelStore, caplog: pytest.LogCaptureFixture
) -> None:
    put_model(store, "m")
    orphan = store.blobs.put(b"orphan")
    age_everything(root)
    manifest_path(root, "m").write_bytes(b"{")

    with caplog.at_level(logging.WARNING):
        assert store.prune() == 0
    assert store.blobs.has(orphan)
    assert "nothing is pruned name=registry.ollama.ai/library/m:latest" in caplog.text


def test_no_pruning_still_renames(root: Path) -> None:
    store = ModelStore(root, prune=False)
    orphan = store.blobs.put(b"orphan")
    store.blobs.path(orphan).rename(root / "blobs" / str(orphan))
    age_everything(root)

    assert store.prune() == 0
    assert blob_names(root) == {orphan.file_name}


def test_pruning_removes_empty_directories_and_half_written_manifests(
    root: Path, store: ModelStore
) -> None:
    put_model(store, "m")
    (root / "manifests/hf.co/a/b").mkdir(parents=True)
    half = manifest_path(root, "m").parent / ".olla-half"
    half.write_text("{")

    store.prune()

    assert [path.name for path in (root / "manifests").iterdir()] == ["registry.ollama.ai"]
    assert not half.exists()
    verify(store, "m")


def test_held_blobs_survive_pruning_and_deleting(root: Path, store: ModelStore) -> None:
    manifest = put_model(store, "m")
    coming = store.blobs.put(b"coming")

    with store.hold() as hold:
        hold.add(coming)
        hold.add(manifest.layers[0].digest)
        store.delete(name("m"))
        age_everything(root)
        store.prune()
        assert blob_names(root) == {coming.file_name, manifest.layers[0].digest.file_name}

    assert store.prune() == 2
    assert blob_names(root) == set()


def test_a_hold_keeps_the_partial_download_of_its_blob(root: Path, store: ModelStore) -> None:
    digest = Digest.of(b"large")
    partial = root / "blobs" / f"{digest.file_name}-partial"
    partial.parent.mkdir(parents=True)
    partial.touch()
    age_everything(root)

    with store.hold() as hold:
        hold.add(digest)
        assert store.prune() == 0

    assert store.prune() == 1


def test_a_hold_of_another_process_counts_until_it_dies(root: Path, store: ModelStore) -> None:
    digest = store.blobs.put(b"held elsewhere")
    age_everything(root)
    code = (
        "import sys; from pathlib import Path; from olla.registry.digest import Digest;"
        "from olla.registry.store import ModelStore\n"
        "with ModelStore(Path(sys.argv[1])).hold() as hold:\n"
        "    hold.add(Digest.parse(sys.argv[2])); print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, root, str(digest)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"

        assert store.prune() == 0

        holder.kill()
        holder.wait()
    assert store.prune() == 1
    assert list((root / ".olla" / "holds").iterdir()) == []


def test_a_store_that_is_no_directory_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file")
    store = ModelStore(tmp_path / "models")

    with pytest.raises(StoreError, match=r"^cannot write model m:latest: "):
        store.put(name("m"), b"")
    with pytest.raises(StoreError, match=r"^cannot delete model m:latest: "):
        store.delete(name("m"))
    with pytest.raises(StoreError, match=r"^cannot prune the model store: "):
        store.prune()
    with pytest.raises(StoreError, match=r"^cannot write to the model store: "), store.hold():
        pass


def test_a_directory_where_a_manifest_belongs_is_a_store_error(
    root: Path, store: ModelStore
) -> None:
    manifest_path(root, "m").mkdir(parents=True)
    data = add_manifest(store, (MediaType.MODEL, GGUF))

    with pytest.raises(StoreError, match=r"^cannot write model m:latest: Is a directory$"):
        store.put(name("m"), data)


def test_a_full_disk_leaves_the_old_manifest(root: Path, store: ModelStore) -> None:
    old = put_model(store, "m")
    new = add_manifest(store, (MediaType.MODEL, b"new"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    try:
        with pytest.raises(StoreError, match=r"^cannot write model m:latest: File too large$"):
            store.put(name("m"), new)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert store.resolve(name("m")).manifest == old
    assert list(manifest_path(root, "m").parent.iterdir()) == [manifest_path(root, "m")]
    verify(store, "m")


def test_listing_many_models_is_quick(root: Path, store: ModelStore) -> None:
    put_model(store, "m0", (MediaType.MODEL, GGUF), (MediaType.SYSTEM, b"s"))
    for index in range(1, 100):
        store.copy(name("m0"), name(f"m{index}"))
    store.list()[0].capabilities  # noqa: B018 -- reads the header, which is then remembered

    start = time.perf_counter()
    models = store.list()
    assert all(model.capabilities for model in models)

    assert len(models) == 100
    assert time.perf_counter() - start < 1  # 20 to 30 ms; the bound is for a loaded machine
