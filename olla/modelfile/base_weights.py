"""What a base model's files say without being loaded: JSON files and its parameters.

Reads headers only, through olla.formats; knows nothing about layers or adapters.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from olla.errors import BadInput, FormatError
from olla.formats.bitsandbytes import is_quantized, parameters
from olla.formats.expert_tensors import expert_name, unstacked
from olla.formats.gguf import read_gguf
from olla.formats.safetensors import SafetensorsTensor, read_safetensors
from olla.formats.tensor_names import hf_name
from olla.registry.weights import GGUF_NAME

MAX_JSON_BYTES = 64 * 1024 * 1024

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


@dataclass(frozen=True, slots=True)
class BaseShapes:
    """The shapes of a model's parameters by Hugging Face's module names, torch's way round."""

    shapes: Mapping[str, Shape]
    is_transposed: bool = False

    @classmethod
    def of(cls, files: Mapping[str, Path], *, is_transposed: bool = False) -> Self:
        """
        Args:
            files: `{"model.gguf": path}`, or the files of a repository.
            is_transposed: the linears are stored with their inputs first, as GPT-2's are.

        Raises:
            BadInput: a GGUF architecture whose tensors have no names on Hugging Face.
            FormatError: a file is broken.
        """
        gguf = files.get(GGUF_NAME)
        return cls(dict(_gguf_shapes(gguf) if gguf else _repository_shapes(files)), is_transposed)

    def enlarged(self, vocab_size: int) -> BaseShapes:
        """The same with a larger vocabulary."""
        shapes = {
            name: (vocab_size, *shape[1:])
            if is_embedding(name.removesuffix(".weight")) or is_head(name.removesuffix(".weight"))
            else shape
            for name, shape in self.shapes.items()
        }
        return replace(self, shapes=shapes)

    def get(self, module: str) -> Shape | None:
        """The shape of a module's weight; a head that is tied has its embedding's."""
        shape = self._find(f"{expert_name(module)}.weight")
        if shape is None and is_head(module):
            tables = (name for name in self.shapes if is_embedding(name.removesuffix(".weight")))
            return next((self.shapes[name] for name in tables), None)
        if shape is None or len(shape) != 2 or is_head(module) or is_embedding(module):
            return shape
        return shape[::-1] if self.is_transposed else shape

    def experts(self, stack: str) -> tuple[Shape, Shape] | None:
        """The two matrices of each expert of a mixture; None where they are not to be had."""
        halves = self.get(f"{stack}.0.gate_proj")
        whole = self.get(f"{stack}.0.gate_up_proj")
        down = self.get(f"{stack}.0.down_proj")
        if halves is not None:
            whole = (2 * halves[0], *halves[1:])
        return None if whole is None or down is None else (whole, down)

    def bias(self, module: str) -> Shape | None:
        """The shape of a module's bias, as it is or would be if the module had one."""
        shape = self._find(f"{module}.bias")
        weight = self.get(module)
        return shape if shape is not None or weight is None else weight[:1]

    def _find(self, name: str) -> Shape | None:
        """Some repositories leave the first part out, which the whole model's modules have."""
        return self.shapes.get(name) or self.shapes.get(name.partition(".")[2])


def is_embedding(module: str) -> bool:
    """Whether a module looks rows up, by the names that architectures have for it."""
    return module.rpartition(".")[2] in {
        "embed_tokens",
        "embed_in",
        "wte",
        "wpe",
        "word_embeddings",
    }


def is_head(module: str) -> bool:
    return module in {"lm_head", "embed_out"}


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
    """Those of what bitsandbytes packed are the shapes before."""
    placed = ((files[name], tensor) for name, tensor in repository_tensors(files))
    if "config.json" in files and is_quantized(read_object(files["config.json"], "config.json")):
        found = parameters(placed).items()
        return ((expert_name(name), parameter.shape) for name, parameter in found)
    return ((part.name, part.shape) for _, tensor in placed for part in unstacked(tensor))


def _gguf_shapes(path: Path) -> Iterator[tuple[str, Shape]]:
    header = read_gguf(path)
    architecture = str(header.metadata.get("general.architecture"))
    named = [(hf_name(architecture, tensor.name), tensor) for tensor in header.tensors]
    if not any(name for name, _ in named):
        raise BadInput(f'adapters on the GGUF architecture "{architecture}" are not supported')
    return (
        (part.name, part.shape)
        for name, tensor in named
        if name
        for part in unstacked(replace(tensor, name=name))
    )
