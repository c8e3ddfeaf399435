"""An adapter's files -> its parts, with alpha's scale worked in: LoRA as peft saves it.

Takes every kind that peft's LoraConfig makes and that is still a change of weights: plain, rsLoRA,
DoRA, biases, whole modules, embeddings and single tokens. Checks what can be checked without the
base; whether a part fits is the model's to say. GGUF's is in gguf_lora.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from olla.engine.parts import LowRank, Part, Replaced, TokenRows
from olla.engine.weights.safetensors import TensorFiles, read_json
from olla.errors import FormatError

CONFIG = "adapter_config.json"

_PREFIX = "base_model.model."
_LOW_RANK = re.compile(
    r"(?P<module>.+)\.(lora_[AB]\.(weight|bias)|lora_embedding_[AB]|lora_magnitude_vector"
    r"(\.weight)?)"
)
# peft wraps a module once for each of its parameters that an adapter changes.
_STACK = re.compile(r"(?P<experts>.+\.experts)(\.base_layer)*")
_STACKED = ("gate_up_proj", "down_proj")
_TOKENS = re.compile(r"(?P<module>.+?)\.token_adapter\.trainable_tokens_delta")
# Biases of whole modules, which stand under the modules' own names too.
_TWICE = re.compile(r".+\.(modules_to_save|original_module)\..+")
_WHOLE = re.compile(r"(?P<module>.+?)(?P<base>\.base_layer)?\.(?P<parameter>weight|bias)")


def read_lora(files: Mapping[str, Path]) -> list[Part]:
    """The parts of an adapter.

    Args:
        files: `adapter_config.json` and safetensors, in one file or several.

    Raises:
        FormatError: not a LoRA that is a change of weights, or its files are missing or broken.
    """
    config = read_json(files, CONFIG)
    if config.get("alora_invocation_tokens"):
        raise FormatError("the adapter is an activated LoRA, which olla does not run")
    weights = [path for name, path in sorted(files.items()) if name.endswith(".safetensors")]
    if not weights:
        raise FormatError("the adapter has no adapter_model.safetensors")
    tensors = _Tensors(TensorFiles(weights))
    parts: list[Part] = [
        *_low_ranks(tensors, config),
        *_token_rows(tensors, config),
        *_whole(tensors),
    ]
    if not parts:
        raise FormatError("the adapter holds no weights")
    return parts


class _Tensors:
    """The adapter's tensors, without peft's prefix."""

    def __init__(self, files: TensorFiles) -> None:
        self._files = files
        self.names = [name.removeprefix(_PREFIX) for name in files if name.startswith(_PREFIX)]
        strangers = [name for name in files if not name.startswith(_PREFIX)]
        if strangers:
            raise FormatError(f"the adapter holds {strangers[0]}, which is no LoRA weight")

    def get(self, name: str) -> Tensor | None:
        tensor = self._files.get(_PREFIX + name)
        if tensor is not None and not tensor.isfinite().all():
            raise FormatError(f"the adapter's {name} holds a number that is not finite")
        return tensor

    def first(self, *names: str) -> Tensor | None:
        return next((found for name in names if (found := self.get(name)) is not None), None)

    def modules(self, pattern: re.Pattern[str]) -> list[str]:
        matches = (pattern.fullmatch(name) for name in self.names)
        return list(dict.fromkeys(match["module"] for match in matches if match))


def _low_ranks(tensors: _Tensors, config: Mapping[str, Any]) -> Iterator[LowRank]:
    for module in tensors.modules(_LOW_RANK):
        a = tensors.first(f"{module}.lora_A.weight", f"{module}.lora_embedding_A")
        b = tensors.first(f"{module}.lora_B.weight", f"{module}.lora_embedding_B")
        if a is None or b is None:
            raise FormatError(f"the adapter's {module} lacks its lora_A or lora_B")
        if a.ndim != 2 or b.ndim != 2:
            raise FormatError(f"the adapter's {module} is not a pair of matrices")
        stack = _STACK.fullmatch(module)
        rank = _rank(config, stack["experts"]) if stack else a.shape[0]
        alpha = _for_module(config, "alpha_pattern", module, config.get("lora_alpha", rank))
        scale = alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
        magnitude = tensors.first(
            f"{module}.lora_magnitude_vector", f"{module}.lora_magnitude_vector.weight"
        )
        bias = tensors.get(f"{module}.lora_B.bias")
        if stack:
            yield from _each_expert(stack["experts"], a, b * scale, rank)
        else:
            yield LowRank(module, a, b * scale, magnitude, None if bias is None else bias * scale)


def _rank(config: Mapping[str, Any], module: str) -> int:
    """The rank of each expert's pair."""
    rank = int(config.get("r", 8))
    for pattern in ("rank_pattern", "alpha_pattern"):  # peft's file doesn't say which tensor it is
        if any(_for_module(config, pattern, f"{module}.{name}", -1) != -1 for name in _STACKED):
            raise FormatError(f"{CONFIG}: olla takes no {pattern} for experts in one tensor")
    if rank < 1:
        raise FormatError(f"{CONFIG}: r must be a positive whole number, not {rank}")
    return rank


def _each_expert(stack: str, a: Tensor, b: Tensor, rank: int) -> Iterator[LowRank]:
    """What one pair changes of experts in one tensor, whichever of the two tensors that is.

    Args:
        a: (num_experts * rank, in_features). b: (out_features, rank * num_experts).
    """
    if a.shape[0] != b.shape[1] or a.shape[0] % rank:
        raise FormatError(f"the adapter's {stack} has ranks {a.shape[0]} and {b.shape[1]}")
    sides = zip(torch.split(a, rank), b.reshape(len(b), rank, -1).unbind(2), strict=True)
    for number, (low, high) in enumerate(sides):
        yield LowRank(f"{stack}.{number}", low, high)


def _token_rows(tensors: _Tensors, config: Mapping[str, Any]) -> Iterator[TokenRows]:
    for module in tensors.modules(_TOKENS):
        rows = tensors.get(f"{module}.token_adapter.trainable_tokens_delta")
        assert rows is not None
        tokens = _trained_tokens(config.get("trainable_token_indices"), module)
        yield TokenRows(module, torch.tensor(tokens, dtype=torch.int64), rows)


def _trained_tokens(indices: object, module: str) -> list[int]:
    """A list is for the embedding; an object has one for each module, by the end of its name."""
    if isinstance(indices, dict):
        ends = [name for name in indices if f".{module}".endswith(f".{name}")]
        indices = indices[ends[0]] if ends else None
    if not isinstance(indices, list) or not all(type(index) is int for index in indices):
        raise FormatError(f"{CONFIG}: trainable_token_indices names no tokens for {module}")
    return indices


def _whole(tensors: _Tensors) -> Iterator[Replaced]:
    """Whole parameters, but for the weights beside a LoRA, which are the base's own."""
    for name in tensors.names:
        if any(pattern.fullmatch(name) for pattern in (_LOW_RANK, _TOKENS, _TWICE)):
            continue
        match = _WHOLE.fullmatch(name)
        if match is None:
            raise FormatError(f"the adapter holds {_PREFIX}{name}, which is no LoRA weight")
        if match["base"] and match["parameter"] == "weight":
            continue
        values = tensors.get(name)
        assert values is not None
        yield Replaced(match["module"], match["parameter"], values)


def _for_module(config: Mapping[str, Any], pattern: str, module: str, default: float) -> float:
    """peft's rule: a key of the pattern is a regular expression for the end of the name."""
    for key, value in (config.get(pattern) or {}).items():
        if re.fullmatch(rf"(.*\.)?({key})", module):
            return float(value)
    return float(default)
