"""Tensors of experts -> one matrix for each expert, by the names that transformers 4 gave them.

A file may hold the experts of a layer one by one or stacked in one tensor (experts, rows, columns);
Mixtral's and Granite's have names of their own. Knows names and places, nothing about values.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import TypeVar

from olla.formats.gguf import GgufTensor
from olla.formats.safetensors import SafetensorsTensor

_Tensor = TypeVar("_Tensor", GgufTensor, SafetensorsTensor)

# Mixtral's and Granite's names -> Qwen's, which the others have too.
_RENAMED = {
    r"\.block_sparse_moe\.input_linear(\.weight)?$": ".mlp.experts.gate_up_proj",
    r"\.block_sparse_moe\.output_linear(\.weight)?$": ".mlp.experts.down_proj",
    r"\.block_sparse_moe\.router(\.layer)?\b": ".mlp.gate",
    r"\.block_sparse_moe\.": ".mlp.",
    r"(\.experts\.\d+)\.w1\b": r"\1.gate_proj",
    r"(\.experts\.\d+)\.w2\b": r"\1.down_proj",
    r"(\.experts\.\d+)\.w3\b": r"\1.up_proj",
}
_STACK = re.compile(r"(.+\.mlp\.experts)\.(gate_proj|up_proj|gate_up_proj|down_proj)(?:\.weight)?")
_SHARED_GATE = ".mlp.shared_expert_gate.weight"


def expert_name(name: str) -> str:
    """A module's or parameter's name as this package knows it; most stay what they are."""
    if "block_sparse_moe" not in name and ".experts." not in name:
        return name
    for pattern, known in _RENAMED.items():
        name = re.sub(pattern, known, name)
    return name


def unstacked(tensor: _Tensor) -> Iterator[_Tensor]:
    """The matrices of a stack in order; anything else is given back with its name made known."""
    name = expert_name(tensor.name)
    match = _STACK.fullmatch(name)
    shape: tuple[int, ...] = tensor.shape
    if name.endswith(_SHARED_GATE) and len(shape) == 1:  # GGUF drops the dimension of one
        shape = (1, *shape)
    if match is None or len(shape) != 3 or not shape[0]:
        yield replace(tensor, name=name, shape=shape)
        return
    size = tensor.size_bytes // shape[0]
    for number in range(shape[0]):
        yield replace(
            tensor,
            name=f"{match[1]}.{number}.{match[2]}.weight",
            shape=shape[1:],
            offset=tensor.offset + number * size,
            size_bytes=size,
        )
