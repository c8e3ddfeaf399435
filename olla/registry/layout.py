"""Which files a manifest's layers are, for whoever loads the model.

Knows names and places, nothing of what the files hold. Invariant: every name is a clean relative
path, whatever the manifest says, since names become paths and manifests come from anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from olla.errors import StoreError
from olla.registry.blobs import BlobStore
from olla.registry.digest import Digest
from olla.registry.manifest import Layer, Manifest, MediaType
from olla.registry.weights import GGUF_NAME

GGUF_ADAPTER_NAME = "adapter.gguf"
_MAX_NAME_BYTES = 255  # file systems take no longer ones
_REPOSITORY_TYPES = (MediaType.FILE, MediaType.JSON, MediaType.TENSOR)


def model_files(manifest: Manifest, blobs: BlobStore) -> Mapping[str, Path]:
    """The base model's files: one GGUF file or a repository's.

    Raises:
        StoreError: a name is not a clean relative path.
    """
    weights = manifest.layers_of(MediaType.MODEL)
    if weights:
        return {GGUF_NAME: blobs.path(weights[0].digest)}
    return {
        _file_name(layer): blobs.path(layer.digest)
        for layer in manifest.layers_of(*_REPOSITORY_TYPES)
    }


def adapter_files(manifest: Manifest, blobs: BlobStore) -> tuple[Mapping[str, Path], ...]:
    """The files of each adapter, those in GGUF first.

    Raises:
        StoreError: a name is not a number and a clean relative path.
    """
    ggufs = [
        {GGUF_ADAPTER_NAME: blobs.path(layer.digest)}
        for layer in manifest.layers_of(MediaType.ADAPTER)
    ]
    peft: dict[int, dict[str, Path]] = {}
    for layer in manifest.layers_of(MediaType.ADAPTER_FILE):
        index, _, name = layer.name.partition("/")
        if not (index.isascii() and index.isdigit() and len(index) < 4):
            raise StoreError(f"broken manifest: {layer.name!r} has no adapter's number")
        peft.setdefault(int(index), {})[_clean_name(name)] = blobs.path(layer.digest)
    return (*ggufs, *(peft[index] for index in sorted(peft)))


def weights_key(manifest: Manifest) -> str:
    """Equal for manifests with the same base weights; "" without weights."""
    weights = manifest.layers_of(MediaType.MODEL)
    if weights:
        return str(weights[0].digest)
    files = manifest.layers_of(*_REPOSITORY_TYPES)
    if not files:
        return ""
    lines = sorted(f"{layer.name} {layer.digest}\n" for layer in files)
    return str(Digest.of("".join(lines).encode("utf-8", "replace")))


def is_weights_type(media_type: str) -> bool:
    """Whether layers of that type are of the base model itself."""
    return media_type in {MediaType.MODEL, *_REPOSITORY_TYPES}


def _file_name(layer: Layer) -> str:
    # Ollama keeps each tensor in a safetensors file of its own, named after the tensor.
    suffix = ".safetensors" if layer.media_type == MediaType.TENSOR else ""
    return _clean_name(layer.name + suffix)


def is_clean(name: str) -> bool:
    """Whether a file's name is a relative path that leads nowhere else and can be one on disk."""
    path = PurePosixPath(name)
    is_relative = str(path) == name != "." and not path.is_absolute() and ".." not in path.parts
    if not (is_relative and name.isprintable() and "\\" not in name):
        return False
    return all(len(part.encode()) <= _MAX_NAME_BYTES for part in path.parts)


def _clean_name(name: str) -> str:
    if not is_clean(name):
        raise StoreError(f"broken manifest: {name!r} is not a clean relative path")
    return name
