"""A model that drafts for another comes with it, if it says the same by the same numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from olla.errors import BadInput
from olla.registry.manifest import MediaType
from olla.registry.store import ModelStore
from tests.formats.gguf_writer import tiny_model
from tests.modelfile.building import build, resolve, upload
from tests.modelfile.conftest import Metadata, write_gguf

TOKENS: Metadata = {"tokenizer.ggml.tokens": ["a", "b", "c"]}


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "store")


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Models with the same vocabulary, with another, and with none that is known."""
    other: Metadata = {"tokenizer.ggml.tokens": ["a", "x", "c"]}
    return {
        "large": write_gguf(tmp_path / "large.gguf", {**TOKENS, "general.name": "large"}),
        "small": write_gguf(tmp_path / "small.gguf", {**TOKENS, "general.name": "small"}),
        "other": write_gguf(tmp_path / "other.gguf", other),
    }


def make(
    store: ModelStore, base: Path, *drafts: Path, model: str = "new", draft_quantize: str = ""
) -> list[str]:
    return build(
        store,
        model,
        draft_quantize=draft_quantize,
        files=upload(store, {base.name: base}),
        draft_files=upload(store, {path.name: path for path in drafts}),
    )


def test_a_draft_is_a_layer_of_the_model(store: ModelStore, files: dict[str, Path]) -> None:
    lines = make(store, files["large"], files["small"])

    model = resolve(store)
    assert "checking the draft model" in lines
    assert model.draft is not None
    assert model.draft.read_bytes() == files["small"].read_bytes()
    assert model.draft_header.info["general.architecture"] == "llama"
    assert [layer.media_type for layer in model.manifest.layers] == [
        MediaType.MODEL,
        MediaType.DRAFT,
    ]


def test_a_draft_is_quantized_by_itself(store: ModelStore, files: dict[str, Path]) -> None:
    lines = make(store, files["large"], files["small"], draft_quantize="q8_0")

    model = resolve(store)
    assert lines[1:3] == ["checking the draft model", "quantizing F32 model to Q8_0"]
    assert model.files["model.gguf"].read_bytes() == files["large"].read_bytes()
    layers = model.manifest.layers
    assert [layer.media_type for layer in layers] == [MediaType.MODEL, MediaType.DRAFT]
    assert model.draft == store.blobs.path(layers[1].digest)
    made = Path(write_gguf(files["small"].with_name("made.gguf"), {}))
    assert model.draft.read_bytes() == made.read_bytes()


def test_a_draft_that_cannot_be_quantized_is_named(
    store: ModelStore, files: dict[str, Path], tmp_path: Path
) -> None:
    small = tmp_path / "q4.gguf"
    small.write_bytes(tiny_model().to_bytes())

    with pytest.raises(BadInput, match=r"DRAFT q4.gguf: quantization is only .* already"):
        make(store, write_gguf(tmp_path / "plain.gguf", {}), small, draft_quantize="q8_0")
    with pytest.raises(BadInput, match=r"DRAFT small.gguf: unsupported quantization type bad"):
        make(store, files["large"], files["small"], draft_quantize="bad")


def test_a_model_made_from_one_with_a_draft_keeps_it_or_has_another(
    store: ModelStore, files: dict[str, Path], tmp_path: Path
) -> None:
    make(store, files["large"], files["small"])
    newer = write_gguf(tmp_path / "newer.gguf", {**TOKENS, "general.name": "newer"})

    build(store, "kept", base="new")
    build(store, "changed", base="new", draft_files=upload(store, {"newer.gguf": newer}))

    assert resolve(store, "kept").draft == resolve(store).draft
    changed = resolve(store, "changed").draft
    assert changed is not None
    assert changed.read_bytes() == newer.read_bytes()


def test_without_a_draft_there_is_none(store: ModelStore, files: dict[str, Path]) -> None:
    build(store, files=upload(store, {"large.gguf": files["large"]}))

    assert resolve(store).draft is None
    assert resolve(store).draft_header.info == {}


def test_another_vocabulary_is_refused(store: ModelStore, files: dict[str, Path]) -> None:
    with pytest.raises(BadInput, match=r"token 1 is 'b' in one and 'x' in the other"):
        make(store, files["large"], files["other"])

    assert store.list() == ()


def test_a_model_does_not_draft_for_itself(store: ModelStore, files: dict[str, Path]) -> None:
    with pytest.raises(BadInput, match=r"DRAFT large.gguf has the weights of the model itself"):
        make(store, files["large"], files["large"])


def test_a_draft_is_one_gguf_file(
    store: ModelStore, files: dict[str, Path], tmp_path: Path
) -> None:
    text = tmp_path / "model.safetensors"
    text.write_bytes(b"no weights")

    with pytest.raises(BadInput, match="expected one GGUF file with a model"):
        make(store, files["large"], files["small"], files["other"])
    with pytest.raises(BadInput, match=r"DRAFT model.safetensors: .* not in GGUF format"):
        make(store, files["large"], text)


def test_a_repository_s_vocabulary_is_read_too(
    store: ModelStore, files: dict[str, Path], repository: Path
) -> None:
    tokenizer = {
        "model": {"vocab": {"a": 0, "b": 1}},
        "added_tokens": [{"id": 2, "content": "<end>"}],
    }
    (repository / "tokenizer.json").write_text(json.dumps(tokenizer))
    weights = {path.name: path for path in repository.iterdir()}

    with pytest.raises(BadInput, match="token 2 is '<end>' in one and 'c' in the other"):
        build(
            store,
            files=upload(store, weights),
            draft_files=upload(store, {"small.gguf": files["small"]}),
        )
