"""Puts small models into a store, the way pull and create do: blobs first, manifest last."""

from __future__ import annotations

import json
from pathlib import Path

from olla.names import ModelName
from olla.registry.digest import Digest
from olla.registry.manifest import (
    CONFIG_TYPE,
    Layer,
    Manifest,
    MediaType,
    ModelConfig,
    format_config,
    format_manifest,
    parse_manifest,
)
from olla.registry.store import ModelStore
from tests.formats.gguf_writer import tiny_model

GGUF = tiny_model().to_bytes()


def name(text: str) -> ModelName:
    return ModelName.parse(text)


def add_layer(store: ModelStore, media_type: str, data: bytes, path: str = "") -> Layer:
    return Layer(media_type, store.blobs.put(data), len(data), path)


def add_manifest(
    store: ModelStore, *layers: tuple[str, bytes], config: ModelConfig | None = None
) -> bytes:
    """Blobs of (media type, data), or of ("<media type> <name>", data), and their manifest."""
    added = []
    for media_type, data in layers:
        kind, _, path = media_type.partition(" ")
        added.append(add_layer(store, kind, data, path))
    config_layer = add_layer(store, CONFIG_TYPE, format_config(config or ModelConfig()))
    return format_manifest(Manifest(config_layer, tuple(added)))


def put_model(
    store: ModelStore,
    text: str,
    *layers: tuple[str, bytes],
    config: ModelConfig | None = None,
) -> Manifest:
    """A model named `text` of these layers; of a tiny GGUF file if there are none."""
    manifest = add_manifest(store, *(layers or ((MediaType.MODEL, GGUF),)), config=config)
    store.put(name(text), manifest)
    return parse_manifest(manifest)


def safetensors_bytes(**tensors: tuple[str, list[int], int]) -> bytes:
    """A safetensors file of zeros: name -> dtype, shape, size in bytes."""
    header: dict[str, object] = {}
    end = 0
    for tensor, (dtype, shape, size) in tensors.items():
        header[tensor] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(end)


def blob_names(root: Path) -> set[str]:
    return {path.name for path in (root / "blobs").glob("*")}


def verify(store: ModelStore, text: str) -> None:
    """Every blob of the model hashes to its digest."""
    for layer in store.resolve(name(text)).manifest.blobs:
        data = store.blobs.path(layer.digest).read_bytes()
        assert Digest.of(data) == layer.digest
        assert len(data) == layer.size_bytes
