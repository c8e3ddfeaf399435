"""Models made from files, quantized or as they are, in a real store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import save_file

from olla.errors import (
    BadInput,
    FormatError,
)
from olla.modelfile.files import collect_files
from olla.registry.digest import Digest
from olla.registry.manifest import MediaType
from olla.registry.store import ModelStore
from tests.formats.gguf_writer import tiny_model
from tests.modelfile.building import build, manifests, resolve, upload
from tests.modelfile.conftest import (
    CONFIG,
    model_tensors,
    write_gguf,
    zeros,
)


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "store")


class TestFromGguf:
    def test_the_weights_become_the_model_layer(self, store: ModelStore, gguf_file: Path) -> None:
        digest = Digest.of(gguf_file.read_bytes())

        lines = build(store, files=upload(store, {"tiny.gguf": gguf_file}))

        model = resolve(store)
        assert lines == [
            "parsing GGUF",
            f"using existing layer {digest}",
            "writing manifest",
            "success",
        ]
        assert model.files == {"model.gguf": store.blobs.path(digest)}
        assert [layer.media_type for layer in model.manifest.layers] == [MediaType.MODEL]

    def test_the_config_is_told_from_the_header(self, store: ModelStore, gguf_file: Path) -> None:
        build(store, files=upload(store, {"tiny.gguf": gguf_file}))

        config = resolve(store).config
        assert (config.model_format, config.model_family) == ("gguf", "llama")
        assert (config.model_families, config.file_type) == (("llama",), "F32")
        assert config.model_type == "21K"

    def test_the_magic_counts_as_well_as_the_name(self, store: ModelStore, gguf_file: Path) -> None:
        build(store, files=upload(store, {"weights": gguf_file}))

        assert "model.gguf" in resolve(store).files

    def test_a_projector_lies_beside_the_model(
        self, store: ModelStore, gguf_file: Path, tmp_path: Path
    ) -> None:
        projector = write_gguf(tmp_path / "mmproj.gguf", {}, architecture="clip")
        files = {"a-mmproj.gguf": projector, "tiny.gguf": gguf_file}

        lines = build(store, files=upload(store, files))

        assert lines[:2] == ["parsing GGUF", "parsing GGUF"]
        assert [layer.media_type for layer in resolve(store).manifest.layers] == [
            MediaType.MODEL,
            MediaType.PROJECTOR,
        ]

    @pytest.mark.parametrize(
        ("metadata", "error"),
        [
            ({"general.type": "adapter"}, "x.gguf is an adapter, not a model"),
            ({"general.type": "mmproj"}, "expected one GGUF file with a model, got none"),
            ({"split.count": 2}, "x.gguf is a part of a split GGUF file"),
        ],
    )
    def test_files_that_are_no_model(
        self, store: ModelStore, tmp_path: Path, metadata: dict[str, str | int], error: str
    ) -> None:
        path = write_gguf(tmp_path / "x.gguf", metadata)

        with pytest.raises(BadInput) as caught:
            build(store, files=upload(store, {"x.gguf": path}))

        assert str(caught.value).startswith(error)

    def test_two_models(self, store: ModelStore, gguf_file: Path) -> None:
        files = upload(store, {"a.gguf": gguf_file, "b.gguf": gguf_file})

        with pytest.raises(BadInput, match=r"expected one GGUF .*, got a\.gguf, b\.gguf"):
            build(store, files=files)

    def test_a_file_that_only_claims_to_be_gguf(self, store: ModelStore) -> None:
        with pytest.raises(BadInput, match=r"^supplied file was not in GGUF format$"):
            build(store, files={"a.gguf": str(store.blobs.put(b"nonsense"))})

    def test_a_truncated_file(self, store: ModelStore, gguf_file: Path, tmp_path: Path) -> None:
        digest = store.blobs.put(gguf_file.read_bytes()[:-1])

        with pytest.raises(FormatError, match=r"^a\.gguf: invalid GGUF file"):
            build(store, files={"a.gguf": str(digest)})

        assert manifests(tmp_path) == []


class TestFromRepository:
    def test_every_file_becomes_a_layer(self, store: ModelStore, repository: Path) -> None:
        files = collect_files(repository)

        lines = build(store, files=upload(store, files))

        model = resolve(store)
        assert lines[0] == "converting model"
        assert lines[-2:] == ["writing manifest", "success"]
        assert {name: path.read_bytes() for name, path in model.files.items()} == {
            name: path.read_bytes() for name, path in files.items()
        }
        assert {layer.media_type for layer in model.manifest.layers} == {MediaType.FILE}

    def test_the_config_is_told_from_the_files(self, store: ModelStore, repository: Path) -> None:
        build(store, files=upload(store, collect_files(repository)))

        model = resolve(store)
        assert (model.config.model_format, model.config.model_family) == ("safetensors", "llama")
        assert (model.config.model_type, model.config.file_type) == ("21K", "F32")
        assert model.context_length == 128

    def test_any_architecture_is_taken(self, store: ModelStore, repository: Path) -> None:
        config = CONFIG | {"architectures": ["BrandNewForCausalLM"], "model_type": "brand_new"}
        (repository / "config.json").write_text(json.dumps(config))

        build(store, files=upload(store, collect_files(repository)))

        assert resolve(store).architecture == "brand_new"

    @pytest.mark.parametrize(
        ("config", "error"),
        [
            (None, "the safetensors files need the config.json of their model beside them"),
            ("{}", "config.json names no architecture"),
            ('{"architectures":[]}', "config.json names no architecture"),
            ('{"architectures":[1]}', "config.json names no architecture"),
            ("[]", "config.json is not a JSON object"),
            ("{", "config.json is not JSON"),
        ],
    )
    def test_a_config_that_does_not_do(
        self, store: ModelStore, repository: Path, config: str | None, error: str
    ) -> None:
        (repository / "config.json").unlink()
        if config is not None:
            (repository / "config.json").write_text(config)

        with pytest.raises(BadInput) as caught:
            build(store, files=upload(store, collect_files(repository)))

        assert str(caught.value) == error

    def test_a_truncated_file_is_named(self, store: ModelStore, repository: Path) -> None:
        path = repository / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-1])

        with pytest.raises(FormatError, match=r"^model\.safetensors: invalid safetensors file"):
            build(store, files=upload(store, collect_files(repository)))


class TestShards:
    INDEX = "model.safetensors.index.json"
    PARTS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")

    @pytest.fixture
    def sharded(self, repository: Path) -> Path:
        tensors = list(model_tensors().items())
        halves = (dict(tensors[:5]), dict(tensors[5:]))
        (repository / "model.safetensors").unlink()
        weight_map: dict[str, str] = {}
        for name, half in zip(self.PARTS, halves, strict=True):
            save_file(half, repository / name)
            weight_map |= dict.fromkeys(half, name)
        (repository / self.INDEX).write_text(json.dumps({"weight_map": weight_map}))
        return repository

    def rewrite(self, directory: Path, **changes: Any) -> None:
        index = json.loads((directory / self.INDEX).read_text())
        index["weight_map"] |= changes
        (directory / self.INDEX).write_text(json.dumps(index))

    def test_all_parts(self, store: ModelStore, sharded: Path) -> None:
        build(store, files=upload(store, collect_files(sharded)))

        assert resolve(store).parameter_count == sum(t.size for t in model_tensors().values())

    def test_a_missing_part(self, store: ModelStore, sharded: Path) -> None:
        (sharded / self.PARTS[1]).unlink()

        with pytest.raises(BadInput, match=f"names {self.PARTS[1]}, which is missing"):
            build(store, files=upload(store, collect_files(sharded)))

    def test_a_missing_tensor(self, store: ModelStore, sharded: Path) -> None:
        self.rewrite(sharded, extra=self.PARTS[0])

        with pytest.raises(FormatError, match=f"{self.PARTS[0]} lacks extra, which"):
            build(store, files=upload(store, collect_files(sharded)))

    def test_a_missing_index(self, store: ModelStore, sharded: Path) -> None:
        (sharded / self.INDEX).unlink()

        with pytest.raises(BadInput, match=r"the weights come in parts, but .* is missing"):
            build(store, files=upload(store, collect_files(sharded)))

    def test_a_tensor_in_two_files(self, store: ModelStore, sharded: Path) -> None:
        save_file({"model.norm.weight": zeros(1)}, sharded / "model-extra.safetensors")

        with pytest.raises(FormatError, match=r"model\.norm\.weight is both in .* and in "):
            build(store, files=upload(store, collect_files(sharded)))

    @pytest.mark.parametrize(
        ("text", "error"),
        [
            ("{}", "has no weight_map"),
            ('{"weight_map":{"a":1}}', "has no file for a"),
            ("[]", "is not a JSON object"),
        ],
    )
    def test_a_broken_index(self, store: ModelStore, sharded: Path, text: str, error: str) -> None:
        (sharded / self.INDEX).write_text(text)

        with pytest.raises(FormatError, match=f"^{self.INDEX} {error}$"):
            build(store, files=upload(store, collect_files(sharded)))


class TestQuantize:
    def test_the_weights_alone_are_new(self, store: ModelStore, repository: Path) -> None:
        build(store, "floats", files=upload(store, collect_files(repository)), system="Be kind.")
        before = resolve(store, "floats")

        lines = build(store, base="floats", quantize="q8_0")

        model = resolve(store)
        assert lines[:2] == ["quantizing F32 model to Q8_0", "verifying conversion"]
        assert (list(model.files), model.system) == (["model.gguf"], "Be kind.")
        assert model.config.model_format == "gguf"
        assert resolve(store, "floats").digest == before.digest

    def test_a_type_of_bitsandbytes_is_a_repository(
        self, store: ModelStore, repository: Path, tmp_path: Path
    ) -> None:
        build(store, "floats", files=upload(store, collect_files(repository)), system="Be kind.")

        lines = build(store, base="floats", quantize="nf4")

        model, floats = resolve(store), resolve(store, "floats")
        assert lines[:2] == ["quantizing F32 model to NF4", "verifying conversion"]
        assert model.files.keys() == floats.files.keys() | {"made.json"}
        assert (model.config.model_format, model.system) == ("safetensors", "Be kind.")
        assert not list((tmp_path / "store" / "blobs").glob(".olla-*"))

    def test_what_is_quantized_already_is_refused(self, store: ModelStore, tmp_path: Path) -> None:
        path = tmp_path / "q4.gguf"
        path.write_bytes(tiny_model().to_bytes())

        text = r"only supported for F16, BF16 and F32 models: this one is .*-q q8_0 writes it anew"
        with pytest.raises(BadInput, match=text):
            build(store, files=upload(store, {"q4.gguf": path}), quantize="q8_0")

    def test_one_that_fails_leaves_nothing(
        self, store: ModelStore, repository: Path, tmp_path: Path
    ) -> None:
        files = upload(store, collect_files(repository))
        blobs = sorted((tmp_path / "store" / "blobs").iterdir())

        with pytest.raises(BadInput, match="unsupported quantization type bad"):
            build(store, files=files, quantize="bad")

        assert manifests(tmp_path) == []
        assert sorted((tmp_path / "store" / "blobs").iterdir()) == blobs
