"""Models made from a base and with adapters, in a real store."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from olla.errors import (
    BadInput,
    BlobNotFound,
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
from olla.registry.manifest import CONFIG_TYPE, Layer, Manifest, format_config, format_manifest
from olla.registry.store import ModelStore
from olla.requests import CreateRequest, Progress
from tests.modelfile.building import build, fake_quantize, manifests, resolve, upload
from tests.modelfile.conftest import (
    HIDDEN,
    KV,
    MakeAdapter,
    lora_tensors,
    write_gguf_adapter,
    zeros,
)


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "store")


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

    def test_its_weights_may_come_in_several_files(
        self, base: ModelStore, make_adapter: MakeAdapter
    ) -> None:
        adapter = upload(base, make_adapter())
        weights = adapter.pop("adapter_model.safetensors")
        module = "model.layers.0.self_attn.v_proj"
        second = make_adapter(lora_tensors(module, (4, HIDDEN), (KV, 4)))
        shards = [weights, upload(base, second)["adapter_model.safetensors"]]
        names = [f"adapter_model-0000{at}-of-00002.safetensors" for at in (1, 2)]

        build(base, base="base", adapters=adapter | dict(zip(names, shards, strict=True)))

        assert [set(files) for files in resolve(base).adapters] == [{"adapter_config.json", *names}]
        with pytest.raises(BadInput, match="come in 2 files, but here are 1: copy its whole fold"):
            build(base, base="base", adapters=adapter | {names[1]: weights})

    def test_one_that_names_another_base_is_refused_unless_forced(
        self, base: ModelStore, make_adapter: MakeAdapter
    ) -> None:
        _came_from(base, "base", "hf.co/org/tiny")
        adapter = upload(base, make_adapter(base_model_name_or_path="org/other"))

        with pytest.raises(BadInput, match=r"on org/other, but the base is hf\.co/org/tiny: .*--f"):
            build(base, base="base", adapters=adapter)

        lines = build(base, base="base", adapters=adapter, force=True)
        assert lines[1].startswith("warning: the adapter was trained on org/other, but the base is")
        assert len(resolve(base).adapters) == 1

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


def _came_from(store: ModelStore, name: str, repository: str) -> None:
    """Note in a model's config which repository it was pulled from."""
    model = resolve(store, name)
    config = format_config(replace(model.config, repository=repository))
    layer = Layer(CONFIG_TYPE, store.blobs.put(config), len(config))
    store.put(model.name, format_manifest(Manifest(layer, model.manifest.layers)))
