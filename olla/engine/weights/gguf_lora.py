"""A LoRA in GGUF, as llama.cpp's converter and Ollama make them -> its parts.

Names become Hugging Face's, and the rows of queries and keys take their order there, as those of
a base in GGUF do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from olla.engine.parts import LowRank, Part
from olla.engine.weights.gguf import INTERLEAVED, floats, uninterleaved
from olla.engine.weights.lora import scaled
from olla.engine.weights.mapped import MappedFile
from olla.errors import FormatError
from olla.formats.gguf import GgufTensor, MetadataValue, read_gguf
from olla.formats.lora_names import gguf_pairs

_EMBEDDING = "model.embed_tokens"


class Heads(NamedTuple):
    """How many heads the base has."""

    num_heads: int
    num_kv_heads: int


def read_gguf_lora(path: Path, heads: Heads | None) -> list[Part]:
    """The parts of an adapter.

    Args:
        heads: None for a base whose projections are in no order of their own.

    Raises:
        FormatError: no LoRA, one for a family without known names, or a broken file.
    """
    file = read_gguf(path)
    metadata = file.metadata
    if metadata.get("adapter.type", "lora") != "lora":
        raise FormatError(f"the adapter is of type {metadata['adapter.type']}, not lora")
    architecture, alpha = str(metadata.get("general.architecture")), _alpha(metadata)
    tensors = {tensor.name: tensor for tensor in file.tensors}
    mapped = MappedFile(path)
    parts: list[Part] = []
    for module, names in gguf_pairs(tensors, architecture).items():
        a, b = (_read(mapped, tensors[name]) for name in names)
        if a.ndim != 2 or b.ndim != 2:
            raise FormatError(f"the adapter's {module} is not a pair of matrices")
        a = a.T if module == _EMBEDDING else a
        if architecture in INTERLEAVED and heads is not None:
            b = _in_order(b, module, heads)
        scale = alpha / a.shape[0] if alpha else 1.0
        parts.append(LowRank(module, a, scaled(module, b, scale)))
    return parts


def _alpha(metadata: Mapping[str, MetadataValue]) -> float:
    alpha = metadata.get("adapter.lora.alpha", 0.0)
    if not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise FormatError("the adapter's adapter.lora.alpha is not a number")
    return float(alpha)


def _read(mapped: MappedFile, tensor: GgufTensor) -> Tensor:
    raw = mapped.bytes[tensor.offset : tensor.offset + tensor.size_bytes]
    try:
        values = floats(raw, tensor.type).float().reshape(tensor.shape)
    except (NotImplementedError, ValueError) as error:
        raise FormatError(f"{tensor.name}: cannot read {tensor.type.name} weights") from error
    if not torch.isfinite(values).all():
        raise FormatError(f"the adapter's {tensor.name} holds a number that is not finite")
    return values


def _in_order(b: Tensor, module: str, heads: Heads) -> Tensor:
    if module.endswith(".q_proj"):
        return uninterleaved(b, heads.num_heads)
    return uninterleaved(b, heads.num_kv_heads) if module.endswith(".k_proj") else b
