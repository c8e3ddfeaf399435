"""What a base model's files say without being loaded: JSON files and the linears it has.

Reads headers only, through olla.formats; knows nothing about layers or adapters.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from olla.errors import BadInput, FormatError
from olla.formats.gguf import read_gguf
from olla.formats.safetensors import SafetensorsTensor, read_safetensors
from olla.formats.tensor_names import hf_name
from olla.registry.weights import GGUF_NAME

MAX_JSON_BYTES = 64 * 1024 * 1024

_EMBEDDING = "model.embed_tokens.weight"

Shape = tuple[int, ...]


def read_object(path: Path, name: str) -> dict[str, Any]:
    """Read the JSON object that a model or an adapter calls `name`.

    Raises:
        FormatError: it is not one, or larger than any such file is.
    """
    size = path.stat().st_size
    if size > MAX_JSON_BYTES:
        raise FormatError(f"{name} has {size} bytes, more than the {MAX_JSON_BYTES} allowed")
    try:
        document = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{name} is not JSON") from error
    if not isinstance(document, dict):
        raise FormatError(f"{name} is not a JSON object")
    return document


def linear_shapes(files: Mapping[str, Path]) -> dict[str, Shape]:
    """The matrices of a model: Hugging Face's module name -> (out_features, in_features).

    Args:
        files: `{"model.gguf": path}`, or the files of a repository.

    Raises:
        BadInput: a GGUF architecture whose tensors have no names on Hugging Face.
        FormatError: a file is broken.
    """
    gguf = files.get(GGUF_NAME)
    shapes = _gguf_shapes(gguf) if gguf else _repository_shapes(files)
    return {
        name.removesuffix(".weight"): shape
        for name, shape in shapes
        if name.endswith(".weight") and name != _EMBEDDING and len(shape) == 2
    }


def repository_tensors(files: Mapping[str, Path]) -> Iterator[tuple[str, SafetensorsTensor]]:
    """Every tensor of a repository's safetensors files, with the name of its file.

    Raises:
        FormatError: a file is broken; the text names it.
    """
    for name, path in files.items():
        if not name.endswith(".safetensors"):
            continue
        try:
            tensors = read_safetensors(path).tensors
        except FormatError as error:
            raise FormatError(f"{name}: {error}") from error
        yield from ((name, tensor) for tensor in tensors)


def _repository_shapes(files: Mapping[str, Path]) -> Iterator[tuple[str, Shape]]:
    return ((tensor.name, tensor.shape) for _, tensor in repository_tensors(files))


def _gguf_shapes(path: Path) -> Iterator[tuple[str, Shape]]:
    header = read_gguf(path)
    architecture = str(header.metadata.get("general.architecture"))
    named = [(hf_name(architecture, tensor.name), tensor.shape) for tensor in header.tensors]
    if not any(name for name, _ in named):
        raise BadInput(f'adapters on the GGUF architecture "{architecture}" are not supported')
    return ((name, shape) for name, shape in named if name)
