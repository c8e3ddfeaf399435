"""Manifest and config JSON: Ollama's bytes, and what is refused."""

from __future__ import annotations

import json

import pytest

from olla.errors import StoreError
from olla.registry.digest import Digest
from olla.registry.manifest import (
    CONFIG_TYPE,
    Layer,
    Manifest,
    MediaType,
    ModelConfig,
    format_config,
    format_json,
    format_manifest,
    parse_config,
    parse_manifest,
)

A, B = Digest("a" * 64), Digest("b" * 64)
MANIFEST = Manifest(
    config=Layer(CONFIG_TYPE, A, 12),
    layers=(
        Layer(MediaType.MODEL, B, 34, source="smollm2:135m"),
        Layer(MediaType.FILE, B, 34, name="config.json"),
        Layer("application/vnd.unknown", B, 0),
    ),
)
MANIFEST_TEXT = (
    '{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json",'
    '"config":{"mediaType":"application/vnd.docker.container.image.v1+json",'
    f'"digest":"{A}","size":12}},'
    f'"layers":[{{"mediaType":"application/vnd.ollama.image.model","digest":"{B}","size":34,'
    '"from":"smollm2:135m"},'
    f'{{"mediaType":"application/vnd.olla.image.file","digest":"{B}","size":34,'
    '"name":"config.json"},'
    f'{{"mediaType":"application/vnd.unknown","digest":"{B}","size":0}}]}}\n'
)


def test_manifest_bytes_are_ollamas() -> None:
    assert format_manifest(MANIFEST) == MANIFEST_TEXT.encode()


def test_manifest_reads_back() -> None:
    assert parse_manifest(MANIFEST_TEXT.encode()) == MANIFEST


def test_size_counts_layers_and_config() -> None:
    assert MANIFEST.size_bytes == 34 + 34 + 0 + 12


def test_a_manifest_without_layers_is_fine() -> None:
    config = {"mediaType": CONFIG_TYPE, "digest": str(A), "size": 1}

    assert parse_manifest(json.dumps({"config": config, "layers": None}).encode()).layers == ()


def layer(**changes: object) -> bytes:
    good = {"mediaType": "m", "digest": str(A), "size": 1}
    return json.dumps({"config": good, "layers": [good | changes]}).encode()


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "broken manifest: it is not JSON"),
        (b"\xff", "broken manifest: it is not JSON"),
        (b'{"schemaVersion":2', "broken manifest: it is not JSON"),
        (b"[" * 100_000, "broken manifest: it is not JSON"),
        (b"[]", "broken manifest: it is not a JSON object"),
        (b"{}", "broken manifest: a layer is not a JSON object"),
        (b'{"layers":7}', "broken manifest: its layers are not a list"),
        (layer(digest="sha256:1"), "broken manifest: invalid digest 'sha256:1'"),
        (layer(digest=None), "broken manifest: invalid digest ''"),
        (layer(digest=5), "broken manifest: a layer has a field that is not text"),
        (layer(name=["x"]), "broken manifest: a layer has a field that is not text"),
        (layer(size=-1), "broken manifest: a layer has the size -1"),
        (layer(size="1"), "broken manifest: a layer has the size '1'"),
        (layer(size=True), "broken manifest: a layer has the size True"),
        (layer(size=None), "broken manifest: a layer has the size None"),
    ],
)
def test_broken_manifests_are_refused(data: bytes, text: str) -> None:
    with pytest.raises(StoreError) as caught:
        parse_manifest(data)
    assert str(caught.value) == text


def test_config_bytes_are_ollamas() -> None:
    config = ModelConfig(
        model_format="gguf",
        model_family="llama",
        model_families=("llama",),
        model_type="134.52M",
        file_type="Q4_1",
    )

    assert format_config(config) == (
        b'{"model_format":"gguf","model_family":"llama","model_families":["llama"],'
        b'"model_type":"134.52M","file_type":"Q4_1","architecture":"amd64","os":"linux"}\n'
    )


def test_config_without_families_says_null() -> None:
    assert b'"model_families":null' in format_config(ModelConfig())


def test_config_reads_back_with_the_keys_we_do_not_use() -> None:
    config = ModelConfig(
        model_format="gguf",
        renderer="r",
        requires="0.14.0",
        capabilities=("tools",),
        context_length=4096,
        extra={"draft": {"model_format": "gguf"}},
    )

    assert parse_config(format_config(config)) == config


def test_config_of_a_registry_loses_only_its_rootfs() -> None:
    text = b'{"model_format":"gguf","model_families":null,"rootfs":{"type":"layers"},"x":1}'

    assert parse_config(text) == ModelConfig(model_format="gguf", extra={"x": 1})


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"x", "broken config: it is not JSON"),
        (b"[]", "broken config: it is not a JSON object"),
        (b'{"model_format":1}', "broken config: model_format is 1"),
        (b'{"model_families":"llama"}', "broken config: model_families is 'llama'"),
        (b'{"capabilities":[1]}', "broken config: capabilities is [1]"),
        (b'{"context_length":-1}', "broken config: context_length is -1"),
        (b'{"embedding_length":1.5}', "broken config: embedding_length is 1.5"),
    ],
)
def test_broken_configs_are_refused(data: bytes, text: str) -> None:
    with pytest.raises(StoreError) as caught:
        parse_config(data)
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("value", "data"),
    [
        ({"stop": ["<|eot|>", "&"]}, b'{"stop":["\\u003c|eot|\\u003e","\\u0026"]}\n'),
        ("é\u2028", '"é\\u2028"\n'.encode()),
        ("\ud800", b'"?"\n'),
    ],
)
def test_json_is_escaped_as_go_does(value: object, data: bytes) -> None:
    assert format_json(value) == data
