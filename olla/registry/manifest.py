"""Manifest, Layer and ModelConfig, and their JSON, byte for byte as Ollama writes it.

Knows nothing about where manifests and blobs are stored (spec/registry.md section 3).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

from olla.errors import InvalidDigest, StoreError
from olla.registry.digest import Digest

MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"


class MediaType(StrEnum):
    """What a layer holds. Ollama passes over the types it does not know, ours among them."""

    MODEL = "application/vnd.ollama.image.model"
    PROJECTOR = "application/vnd.ollama.image.projector"
    ADAPTER = "application/vnd.ollama.image.adapter"
    DRAFT = "application/vnd.ollama.image.draft"
    TEMPLATE = "application/vnd.ollama.image.template"
    PROMPT = "application/vnd.ollama.image.prompt"  # what templates were called at first
    SYSTEM = "application/vnd.ollama.image.system"
    PARAMS = "application/vnd.ollama.image.params"
    MESSAGES = "application/vnd.ollama.image.messages"
    LICENSE = "application/vnd.ollama.image.license"
    JSON = "application/vnd.ollama.image.json"
    TENSOR = "application/vnd.ollama.image.tensor"
    FILE = "application/vnd.olla.image.file"
    ADAPTER_FILE = "application/vnd.olla.image.adapter.file"


@dataclass(frozen=True, slots=True)
class Layer:
    """A blob and what it is for. `name`: its path in a repository; `source`: where it came from.

    `media_type` is any text, since layers of unknown types are kept.
    """

    media_type: str
    digest: Digest
    size_bytes: int
    name: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True)
class Manifest:
    config: Layer
    layers: tuple[Layer, ...] = ()

    @property
    def blobs(self) -> tuple[Layer, ...]:
        """Everything the model needs, in the order it is transferred: layers, then config."""
        return (*self.layers, self.config)

    @property
    def size_bytes(self) -> int:
        return sum(layer.size_bytes for layer in self.blobs)

    def layers_of(self, *media_types: str) -> tuple[Layer, ...]:
        return tuple(layer for layer in self.layers if layer.media_type in media_types)


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The config blob. `extra` keeps keys that Ollama has and we do not use.

    `repository` and `revision`: which of a hub's the weights came from, and its commit.
    """

    model_format: str = ""
    model_family: str = ""
    model_families: tuple[str, ...] = ()
    model_type: str = ""
    file_type: str = ""
    renderer: str = ""
    parser: str = ""
    requires: str = ""
    remote_host: str = ""
    remote_model: str = ""
    capabilities: tuple[str, ...] = ()
    context_length: int = 0
    embedding_length: int = 0
    adapter_scales: tuple[float, ...] = ()
    base_name: str = ""
    repository: str = ""
    revision: str = ""
    architecture: str = "amd64"
    os: str = "linux"
    extra: Mapping[str, Any] = field(default_factory=dict)


def parse_manifest(data: bytes) -> Manifest:
    """Read a manifest.

    Raises:
        StoreError: it is not one.
    """
    document = _object(parse_json(data, "manifest"), "manifest")
    layers = document.get("layers") or []
    if not isinstance(layers, list):
        raise StoreError("broken manifest: its layers are not a list")
    return Manifest(
        config=_layer_from_json(document.get("config")),
        layers=tuple(_layer_from_json(layer) for layer in layers),
    )


def parse_new_manifest(data: bytes) -> Manifest:
    """Read the manifest of a model that comes from elsewhere.

    Raises:
        StoreError: it is not one, or names no layers, so that there is no model.
    """
    manifest = parse_manifest(data)
    if not manifest.layers:
        raise StoreError("it names no layers, so there is no model")
    return manifest


def format_manifest(manifest: Manifest) -> bytes:
    return format_json(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": _layer_to_json(manifest.config),
            "layers": [_layer_to_json(layer) for layer in manifest.layers],
        }
    )


def parse_config(data: bytes) -> ModelConfig:
    """Read a config blob; absent and null fields keep their defaults.

    Raises:
        StoreError: it is not JSON, or a field has the wrong type.
    """
    document = _object(parse_json(data, "config"), "config")
    known = {spec.name for spec in fields(ModelConfig)} - {"extra"}
    values: dict[str, Any] = {
        name: _config_value(name, value)
        for name, value in document.items()
        if name in known and value is not None
    }
    extra = {name: value for name, value in document.items() if name not in known | {"rootfs"}}
    return ModelConfig(**values, extra=extra)


def format_config(config: ModelConfig) -> bytes:
    """The config blob's bytes; what is empty and optional in Ollama's is left out."""
    always = {"model_format", "model_family", "model_type", "file_type", "architecture", "os"}
    document: dict[str, Any] = {}
    for spec in fields(config):
        value = getattr(config, spec.name)
        if spec.name == "model_families":
            document[spec.name] = list(value) or None
        elif spec.name != "extra" and (value or spec.name in always):
            document[spec.name] = list(value) if isinstance(value, tuple) else value
    return format_json(document | dict(config.extra))


def format_json(value: object) -> bytes:
    """Compact JSON and a newline, escaped as Go does, so that equal content has equal digests."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode("utf-8", "replace") + b"\n"


def parse_json(data: bytes, what: str) -> Any:
    """Read a small JSON blob of the store.

    Raises:
        StoreError: it is not JSON; `what` names it.
    """
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"broken {what}: it is not JSON") from error


def _object(document: object, what: str) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise StoreError(f"broken {what}: it is not a JSON object")
    return document


def _layer_from_json(document: object) -> Layer:
    if not isinstance(document, dict):
        raise StoreError("broken manifest: a layer is not a JSON object")
    texts = [document.get(key) or "" for key in ("mediaType", "digest", "name", "from")]
    size = document.get("size")
    if not all(isinstance(text, str) for text in texts):
        raise StoreError("broken manifest: a layer has a field that is not text")
    if type(size) is not int or size < 0:
        raise StoreError(f"broken manifest: a layer has the size {size!r}")
    media_type, digest, name, source = texts
    try:
        return Layer(media_type, Digest.parse(digest), size, name, source)
    except InvalidDigest as error:
        raise StoreError(f"broken manifest: invalid digest {digest!r}") from error


def _layer_to_json(layer: Layer) -> dict[str, object]:
    document: dict[str, object] = {
        "mediaType": layer.media_type,
        "digest": str(layer.digest),
        "size": layer.size_bytes,
    }
    if layer.source:
        document["from"] = layer.source
    if layer.name:
        document["name"] = layer.name
    return document


def _config_value(name: str, value: object) -> object:
    if name in {"model_families", "capabilities"}:
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
    elif name == "adapter_scales":
        if isinstance(value, list) and all(type(item) in {int, float} for item in value):
            return tuple(float(item) for item in value)
    elif name in {"context_length", "embedding_length"}:
        if type(value) is int and value >= 0:
            return value
    elif isinstance(value, str):
        return value
    raise StoreError(f"broken config: {name} is {value!r}")
