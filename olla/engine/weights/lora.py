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
from olla.formats.lora_names import (
    LORA_BIAS,
    MAGNITUDE,
    PAIRS,
    TOKENS,
    expert_stack,
    parse_lora_name,
)

CONFIG = "adapter_config.json"

_STACKED = ("gate_up_proj", "down_proj")


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
    """The adapter's tensors, by module and by what they are of it."""

    def __init__(self, files: TensorFiles) -> None:
        self._files = files
        self.modules: dict[str, dict[str, str]] = {}
        for name in files:
            found = parse_lora_name(name)
            if found is None:
                raise FormatError(f"the adapter holds {name}, which is no LoRA weight")
            if not found.is_needless:
                self.modules.setdefault(found.module, {})[found.what] = name

    def get(self, module: str, what: str) -> Tensor | None:
        name = self.modules[module].get(what)
        tensor = None if name is None else self._files.get(name)
        if tensor is not None and not tensor.isfinite().all():
            raise FormatError(f"the adapter's {name} holds a number that is not finite")
        return tensor


def _low_ranks(tensors: _Tensors, config: Mapping[str, Any]) -> Iterator[LowRank]:
    for module, names in tensors.modules.items():
        if not any(what.startswith("lora_") for what in names):
            continue
        side, other = PAIRS[any(what in names for what in PAIRS[1])]
        a, b = tensors.get(module, side), tensors.get(module, other)
        if a is None or b is None:
            raise FormatError(f"the adapter's {module} lacks its lora_A or lora_B")
        if a.ndim != 2 or b.ndim != 2:
            raise FormatError(f"the adapter's {module} is not a pair of matrices")
        stack = expert_stack(module)
        rank = _rank(config, stack) if stack else a.shape[0]
        alpha = _for_module(config, "alpha_pattern", module, config.get("lora_alpha", rank))
        scale = alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
        b = scaled(module, b, scale)
        magnitude, bias = tensors.get(module, MAGNITUDE), tensors.get(module, LORA_BIAS)
        if stack:
            yield from _each_expert(stack, a, b, rank)
        else:
            yield LowRank(
                module, a, b, magnitude, None if bias is None else scaled(module, bias, scale)
            )


def scaled(module: str, numbers: Tensor, scale: float) -> Tensor:
    """Numbers of a module's `b` or bias, with the scale that alpha makes.

    Raises:
        FormatError: float32 does not hold them.
    """
    numbers = numbers * scale
    if not numbers.isfinite().all():
        raise FormatError(f"the adapter's alpha is too large for its {module}")
    return numbers


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
    for module in tensors.modules:
        rows = tensors.get(module, TOKENS)
        if rows is not None:
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
    for module in tensors.modules:
        for parameter in ("weight", "bias"):
            values = tensors.get(module, parameter)
            if values is not None:
                yield Replaced(module, parameter, values)


def _for_module(config: Mapping[str, Any], pattern: str, module: str, default: float) -> float:
    """peft's rule: a key of the pattern is a regular expression for the end of the name."""
    for key, value in (config.get(pattern) or {}).items():
        if re.fullmatch(rf"(.*\.)?({key})", module):
            return float(value)
    return float(default)
