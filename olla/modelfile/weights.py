"""Uploaded weights -> the layers and the config of a new model without a base.

Takes one GGUF file, with projectors beside it, or a repository as Hugging Face has them:
config.json and safetensors. Knows nothing about adapters, templates or manifests.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from olla.errors import BadInput, FormatError
from olla.formats.gguf import MAGIC, GgufFile, read_gguf
from olla.formats.gguf_parts import is_part
from olla.modelfile.base_weights import read_object, repository_tensors
from olla.modelfile.uploads import Upload
from olla.registry.describe import describe_weights
from olla.registry.manifest import Layer, MediaType, ModelConfig
from olla.registry.weights import GGUF_NAME

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"

_SHARD = re.compile(r".*-\d+-of-\d+\.safetensors")
_PROJECTOR_TYPES = frozenset({"projector", "mmproj"})
_VISION_TOWER = "clip"


@dataclass(frozen=True, slots=True)
class Weights:
    """`files` as `Model.files` names them."""

    config: ModelConfig
    layers: tuple[Layer, ...]
    files: Mapping[str, Path]


def import_gguf(uploads: tuple[Upload, ...]) -> Weights:
    """The model among GGUF files; the others must be projectors.

    Raises:
        BadInput: no model, more than one, or a kind of file that is not supported.
        FormatError: a file is broken.
    """
    typed = [(_media_type(upload), upload) for upload in uploads]
    models = [upload for media_type, upload in typed if media_type is MediaType.MODEL]
    if len(models) != 1:
        names = ", ".join(upload.name for upload in models) or "none"
        raise BadInput(f"expected one GGUF file with a model, got {names}")
    typed.sort(key=lambda pair: pair[0] is not MediaType.MODEL)
    files = {GGUF_NAME: models[0].path}
    layers = tuple(upload.layer(media_type) for media_type, upload in typed)
    return Weights(describe_weights(files), layers, files)


def import_repository(uploads: tuple[Upload, ...]) -> Weights:
    """A model of any architecture that config.json names; every file becomes a layer.

    Raises:
        BadInput: files are missing.
        FormatError: a file is broken.
    """
    files = {upload.name: upload.path for upload in uploads}
    _check_config(files)
    _check_shards(files)
    layers = tuple(upload.layer(MediaType.FILE, upload.name) for upload in uploads)
    return Weights(describe_weights(files), layers, files)


def _media_type(upload: Upload) -> MediaType:
    if not upload.starts_with(MAGIC):
        raise BadInput("supplied file was not in GGUF format")
    try:
        header = read_gguf(upload.path)
    except FormatError as error:
        raise FormatError(f"{upload.name}: {error}") from error
    if is_part(header):
        raise BadInput(
            f"{upload.name} is a part of a split GGUF file, which are found by their names: "
            "call them x-00001-of-00003.gguf and so on, as llama-gguf-split does"
        )
    kind = header.metadata.get("general.type")
    if kind == "adapter":
        raise BadInput(f"{upload.name} is an adapter, not a model")
    is_projector = kind in _PROJECTOR_TYPES or _architecture(header) == _VISION_TOWER
    return MediaType.PROJECTOR if is_projector else MediaType.MODEL


def _architecture(header: GgufFile) -> object:
    return header.metadata.get("general.architecture")


def _check_config(files: Mapping[str, Path]) -> None:
    if CONFIG not in files:
        raise BadInput(f"the safetensors files need the {CONFIG} of their model beside them")
    names = read_object(files[CONFIG], CONFIG).get("architectures")
    if not (isinstance(names, list) and names and all(isinstance(name, str) for name in names)):
        raise BadInput(f"{CONFIG} names no architecture")


def _check_shards(files: Mapping[str, Path]) -> None:
    """Every tensor is there once; the index, where there is one, knows what "every" means."""
    homes: dict[str, str] = {}
    for file_name, tensor in repository_tensors(files):
        if tensor.name in homes:
            raise FormatError(f"{tensor.name} is both in {homes[tensor.name]} and in {file_name}")
        homes[tensor.name] = file_name
    if INDEX not in files:
        if any(_SHARD.fullmatch(name) for name in files):
            raise BadInput(f"the weights come in parts, but {INDEX} is missing")
        return
    for tensor_name, file_name in _weight_map(files[INDEX]):
        if file_name not in files:
            raise BadInput(f"{INDEX} names {file_name}, which is missing")
        if homes.get(tensor_name) != file_name:
            raise FormatError(f"{file_name} lacks {tensor_name}, which {INDEX} says it has")


def _weight_map(path: Path) -> Iterator[tuple[str, str]]:
    weight_map = read_object(path, INDEX).get("weight_map")
    if not isinstance(weight_map, dict):
        raise FormatError(f"{INDEX} has no weight_map")
    for tensor_name, file_name in weight_map.items():
        if not isinstance(file_name, str):
            raise FormatError(f"{INDEX} has no file for {tensor_name}")
        yield tensor_name, file_name
