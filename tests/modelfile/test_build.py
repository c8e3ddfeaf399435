"""Models made from a base, from files and with adapters, in a real store."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import save_file

from olla.errors import (
    BadInput,
    BlobNotFound,
    FormatError,
    InvalidDigest,
    InvalidName,
    InvalidOption,
    ModelfileError,
    ModelNotFound,
)
from olla.messages import Message
from olla.modelfile.build import build_model
from olla.modelfile.files import collect_files
from olla.names import ModelName
from olla.registry.digest import Digest
from olla.registry.manifest import MediaType
from olla.registry.model import Model
from olla.registry.store import ModelStore
from olla.requests import CreateRequest, Progress
from tests.formats.gguf_writer import tiny_model
from tests.modelfile.conftest import (
    CONFIG,
    MakeAdapter,
    model_tensors,
    write_gguf,
    write_gguf_adapter,
    zeros,
)


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "store")


def upload(store: ModelStore, files: Mapping[str, Path]) -> dict[str, str]:
    return {name: str(store.blobs.put(path.read_bytes())) for name, path in files.items()}


def fake_quantize(
    files: Mapping[str, Path], kind: str, output: Path, chat_template: str
) -> Generator[Progress, None, None]:
    """Writes the tiny model again, as a folder in nf4; `kind` "bad" is refused."""
    if kind == "bad":
        raise BadInput("unsupported quantization type bad")
    yield Progress("quantizing", "", 100, 50)
    if kind != "nf4":
        write_gguf(output, {})
        return
    output.mkdir()
    for name, path in files.items():
        (output / name).write_bytes(path.read_bytes())
    (output / "made.json").write_text("{}")


def build(store: ModelStore, model: str = "new", **fields: Any) -> list[str]:
    """The lines of the build."""
    steps = build_model(CreateRequest(model, **fields), store, fake_quantize)
    return [progress.status for progress in steps]


def resolve(store: ModelStore, name: str = "new") -> Model:
    return store.resolve(ModelName.parse(name))


def manifests(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "store" / "manifests").rglob("*") if path.is_file()]


@pytest.fixture
def base(store: ModelStore, gguf_file: Path) -> ModelStore:
    """The store with a model "base" that has one layer of each kind."""
    build(
        store,
        "base",
        files=upload(store, {"tiny.gguf": gguf_file}),
        template="old template",
        system="old system",
        renderer="old-renderer",
        requires="0.1",
        licenses=("old license",),
        parameters={"top_k": 1, "stop": ["a"]},
        messages=(Message("user", "old"),),
    )
    return store


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


class TestFromBase:
    def test_everything_is_inherited(self, base: ModelStore) -> None:
        build(base, base="base")

        old, new = resolve(base, "base"), resolve(base)
        assert new.config == old.config
        assert [layer.digest for layer in new.manifest.layers] == [
            layer.digest for layer in old.manifest.layers
        ]
        assert new.parent == "base:latest"
        assert new.weights_key == old.weights_key

    def test_what_is_given_replaces_and_licenses_add_up(self, base: ModelStore) -> None:
        build(
            base,
            base="base",
            template="t",
            system="s",
            renderer="r",
            parser="p",
            requires="v1.2",
            licenses=("l",),
            parameters={"temperature": 0.5, "stop": ["b"]},
            messages=(Message("user", "hi"), Message("assistant", "ho")),
        )

        model = resolve(base)
        assert (model.template, model.system) == ("t", "s")
        assert (model.config.renderer, model.config.parser) == ("r", "p")
        assert model.config.requires == "1.2"
        assert model.licenses == ("old license", "l")
        assert model.parameters == {"top_k": 1, "temperature": 0.5, "stop": ["b"]}
        assert model.messages == (Message("user", "hi"), Message("assistant", "ho"))

    def test_a_license_that_the_base_has_is_not_doubled(self, base: ModelStore) -> None:
        build(base, base="base", licenses=("old license", "new", "new"))

        assert resolve(base).licenses == ("old license", "new")

    def test_each_layer_has_a_line(self, base: ModelStore) -> None:
        lines = build(base, base="base", system="new", licenses=("old license",))

        layers = resolve(base).manifest.layers
        new = Digest.of(b"new")
        assert lines == [
            *(
                f"{'creating new' if layer.digest == new else 'using existing'} layer "
                f"{layer.digest}"
                for layer in layers
            ),
            "writing manifest",
            "success",
        ]

    def test_files_do_not_count_beside_a_base(self, base: ModelStore) -> None:
        build(base, base="base", files={"a.gguf": str(base.blobs.put(b"nonsense"))})

        assert resolve(base).weights_key == resolve(base, "base").weights_key

    def test_a_model_can_be_its_own_base(self, base: ModelStore) -> None:
        build(base, "BASE", base="base", system="new system")

        assert resolve(base, "base").system == "new system"
        assert len(base.list()) == 1

    def test_a_base_that_is_not_there(self, store: ModelStore, tmp_path: Path) -> None:
        with pytest.raises(ModelNotFound):
            build(store, base="missing")

        assert manifests(tmp_path) == []


class TestAdapters:
    def test_the_two_files_become_layers(self, base: ModelStore, make_adapter: MakeAdapter) -> None:
        adapter = make_adapter()

        lines = build(base, base="base", adapters=upload(base, adapter))

        model = resolve(base)
        assert lines[0] == "converting adapter"
        assert [
            {name: path.read_bytes() for name, path in files.items()} for files in model.adapters
        ] == [{name: path.read_bytes() for name, path in adapter.items()}]
        assert model.weights_key == resolve(base, "base").weights_key

    def test_over_a_repository(
        self, store: ModelStore, repository: Path, make_adapter: MakeAdapter
    ) -> None:
        lines = build(
            store,
            files=upload(store, collect_files(repository)),
            adapters=upload(store, {f"lora/{k}": path for k, path in make_adapter().items()}),
        )

        assert lines[:2] == ["converting model", "converting adapter"]
        assert len(resolve(store).adapters) == 1

    def test_one_that_does_not_fit_changes_nothing(
        self, base: ModelStore, make_adapter: MakeAdapter, tmp_path: Path
    ) -> None:
        adapter = make_adapter({"base_model.model.x.lora_A.weight": zeros(4, 4)})
        before = manifests(tmp_path)

        with pytest.raises(BadInput):
            build(base, base="base", adapters=upload(base, adapter))

        assert manifests(tmp_path) == before

    def test_a_base_that_has_some_keeps_them(
        self, base: ModelStore, make_adapter: MakeAdapter
    ) -> None:
        adapters = {f"a/{n}": digest for n, digest in upload(base, make_adapter()).items()}
        build(base, "tuned", base="base", adapters=adapters, adapter_scales={"a": 0.5})

        build(base, base="tuned", adapters=adapters)

        assert len(resolve(base).adapters) == 2
        assert resolve(base).adapter_scales == (0.5, 1.0)
        assert resolve(base).parent == "base:latest"

    def test_there_is_a_most_of_them(self, base: ModelStore, make_adapter: MakeAdapter) -> None:
        adapter = upload(base, make_adapter())
        adapters = {f"{at}/{name}": digest for at in range(101) for name, digest in adapter.items()}

        with pytest.raises(BadInput, match="a model can have 100 adapters, not more"):
            build(base, base="base", adapters=adapters)

    def test_several_have_scales_of_their_own(
        self, base: ModelStore, make_adapter: MakeAdapter, tmp_path: Path
    ) -> None:
        adapter = upload(base, make_adapter())
        adapters = {f"{at}/{name}": digest for at in "ab" for name, digest in adapter.items()}
        adapters |= upload(base, {"c.gguf": write_gguf_adapter(tmp_path / "c.gguf", {})})

        build(base, base="base", adapters=adapters, adapter_scales={"b": 0.5, "c.gguf": 2})

        assert [sorted(files) for files in resolve(base).adapters] == [
            ["adapter.gguf"],
            ["adapter_config.json", "adapter_model.safetensors"],
            ["adapter_config.json", "adapter_model.safetensors"],
        ]
        assert resolve(base).adapter_scales == (2.0, 1.0, 0.5)

    def test_a_scale_for_no_adapter(self, base: ModelStore, make_adapter: MakeAdapter) -> None:
        adapters = upload(base, make_adapter())

        with pytest.raises(BadInput, match="adapter_scales names 'x', which is no adapter"):
            build(base, base="base", adapters=adapters, adapter_scales={"x": 1})

    def test_a_model_in_gguf_is_no_adapter(self, base: ModelStore, gguf_file: Path) -> None:
        with pytest.raises(BadInput, match=r"its general\.type is not adapter"):
            build(base, base="base", adapters=upload(base, {"a.gguf": gguf_file}))


class TestRequests:
    @pytest.mark.parametrize(
        "name", ["/a.gguf", "../a.gguf", "a/../b.gguf", "a//b.gguf", "./a.gguf", ".", "", "a\\b",
                 "a\nb"],
    )  # fmt: skip
    @pytest.mark.parametrize("field", ["files", "adapters"])
    def test_names_must_be_clean(self, store: ModelStore, name: str, field: str) -> None:
        fields: dict[str, Any] = {field: {name: f"sha256:{'0' * 64}"}}

        with pytest.raises(BadInput, match=r"^file path must be relative$"):
            build(store, **fields)

    @pytest.mark.parametrize("digest", ["", "sha256:1", "md5:" + "0" * 64])
    def test_digests_must_be_digests(self, store: ModelStore, digest: str) -> None:
        with pytest.raises(InvalidDigest, match=r"^invalid digest format$"):
            build(store, files={"a.gguf": digest})

    def test_blobs_must_be_there(self, store: ModelStore) -> None:
        digest = f"sha256:{'0' * 64}"

        with pytest.raises(BlobNotFound, match=f'blob "{digest}" not found'):
            build(store, files={"a.gguf": digest})

    @pytest.mark.parametrize("field", ["files", "adapters"])
    def test_pickles_are_refused(self, base: ModelStore, field: str) -> None:
        fields: dict[str, Any] = {field: {"pytorch_model.bin": str(base.blobs.put(b"x"))}}

        with pytest.raises(BadInput, match=r"pytorch_model\.bin holds pickled .* safetensors"):
            build(base, **fields)

    @pytest.mark.parametrize(
        ("files", "error"),
        [
            ([], "neither 'from' or 'files' was specified"),
            (["config.json"], "unknown type"),
            (["a.gguf", "model.safetensors"], "the weights must be either GGUF or safetensors"),
        ],
    )
    def test_files_must_be_weights(self, store: ModelStore, files: list[str], error: str) -> None:
        digest = str(store.blobs.put(b"{}"))

        with pytest.raises(BadInput, match=f"^{error}"):
            build(store, files=dict.fromkeys(files, digest))

    @pytest.mark.parametrize("name", ["", "a b", "a:", "../x"])
    def test_names_of_models(self, base: ModelStore, name: str) -> None:
        with pytest.raises(InvalidName):
            build(base, name, base="base")

    def test_names_of_bases(self, base: ModelStore) -> None:
        with pytest.raises(InvalidName):
            build(base, base="a b")

    def test_parameters_of_the_wrong_type(self, base: ModelStore, tmp_path: Path) -> None:
        before = manifests(tmp_path)

        with pytest.raises(InvalidOption, match='option "top_k" must be of type integer'):
            build(base, base="base", parameters={"top_k": "x"})

        assert manifests(tmp_path) == before

    def test_versions_that_are_none(self, base: ModelStore) -> None:
        with pytest.raises(ModelfileError, match="requires must be a valid semver"):
            build(base, base="base", requires="soon")


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


def test_giving_up_leaves_the_store_as_it_was(base: ModelStore, tmp_path: Path) -> None:
    before = manifests(tmp_path)
    steps = iter(build_model(CreateRequest("new", base="base", system="x"), base, fake_quantize))
    assert next(steps).status.startswith("using existing layer")

    del steps

    assert manifests(tmp_path) == before
    assert not list((tmp_path / "store" / ".olla" / "holds").iterdir())


def test_blobs_are_held_until_the_manifest_is_written(store: ModelStore, gguf_file: Path) -> None:
    build(store, "other", files=upload(store, {"tiny.gguf": gguf_file}))
    steps = iter(build_model(CreateRequest("new", base="other"), store, fake_quantize))
    assert next(steps).status.startswith("using existing layer")

    store.delete(ModelName.parse("other"))

    assert list(steps)[-1] == Progress("success")
    assert resolve(store).files["model.gguf"].is_file()
