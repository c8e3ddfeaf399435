"""A GGUF file as llama.cpp and Ollama load it, written from tensors that come one at a time.

Knows types and bytes, nothing of architectures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np
import torch
from torch import Tensor

from olla.engine.conversion.quants import quantize
from olla.engine.conversion.recipes import Recipe, type_for
from olla.engine.native.library import Core, find_library
from olla.formats.ggml_types import GgmlType

OnProgress = Callable[[int, int], None]

TABLE, HEAD = "token_embd.weight", "output.weight"
_CHUNK_ELEMENTS = 1 << 22


class Output(NamedTuple):
    """A tensor of the file; `read` gives it in float32."""

    name: str
    shape: tuple[int, ...]
    read: Callable[[], Tensor]


class Content(NamedTuple):
    """`metadata` is all but the architecture and what tells of the types."""

    architecture: str
    num_layers: int
    metadata: Mapping[str, Any]
    tensors: Sequence[Output]


def write_content(content: Content, recipe: Recipe, path: Path, on_progress: OnProgress) -> None:
    """
    Args:
        on_progress: told the bytes written so far and those of the whole.
    """
    writer = gguf.GGUFWriter(path, content.architecture)
    for key, value in content.metadata.items():
        _add(writer, key, value)
    writer.add_file_type(recipe.file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    plan = [(tensor, _type_of(tensor, content, recipe)) for tensor in content.tensors]
    for tensor, kind in plan:
        writer.add_tensor_info(
            tensor.name, tensor.shape, np.dtype(np.float32), _num_bytes(tensor, kind),
            gguf.GGMLQuantizationType(int(kind)),
        )  # fmt: skip
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    done, total = 0, sum(_num_bytes(tensor, kind) for tensor, kind in plan)
    library = find_library()
    core = None if library is None else Core(library, torch.get_num_threads())
    for tensor, kind in plan:
        writer.write_tensor_data(_quantized(tensor.read(), kind, core))
        done += _num_bytes(tensor, kind)
        on_progress(done, total)
    writer.close()


def _type_of(tensor: Output, content: Content, recipe: Recipe) -> GgmlType:
    is_tied = all(other.name != HEAD for other in content.tensors)
    is_head = tensor.name == HEAD or (tensor.name == TABLE and is_tied)
    return type_for(recipe, tensor.name, tensor.shape, content.num_layers, is_head=is_head)


def _num_bytes(tensor: Output, kind: GgmlType) -> int:
    return int(np.prod(tensor.shape)) // kind.block_elements * kind.block_bytes


def _quantized(values: Tensor, kind: GgmlType, core: Core | None) -> np.ndarray[Any, Any]:
    """The tensor's bytes; the experts of a mixture are one tensor of matrices."""
    if kind is GgmlType.F32:
        return values.contiguous().numpy()
    rows = values.reshape(-1, values.shape[-1])
    step = max(_CHUNK_ELEMENTS // rows.shape[1], 1)
    parts = torch.split(rows, step)
    return np.concatenate([quantize(part.contiguous(), kind, core) for part in parts])


def _add(writer: Any, key: str, value: object) -> None:
    if isinstance(value, list | tuple):
        writer.add_array(key, list(value))
    elif isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value) if value >= 0 else writer.add_int32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    else:
        writer.add_string(key, str(value))
