"""A LoRA as peft saves it -> low-rank pairs by module, with their scale worked in.

Checks what can be checked without the base; whether a pair fits is the decoder's to say.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from olla.engine.weights.safetensors import TensorFiles, read_json
from olla.errors import FormatError

_PREFIX = "base_model.model."
_KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")


class LoraPair(NamedTuple):
    """`module` names a projection (`model.layers.0.self_attn.q_proj`).

    a: (rank, in_features). b: (out_features, rank), scaled by alpha / rank.
    """

    module: str
    a: Tensor
    b: Tensor


def read_lora(files: Mapping[str, Path]) -> Iterator[LoraPair]:
    """The pairs of an adapter.

    Args:
        files: `adapter_config.json` and `adapter_model.safetensors`.

    Raises:
        FormatError: not a plain LoRA, or its files are missing or broken.
    """
    config = read_json(files, "adapter_config.json")
    if config.get("alora_invocation_tokens"):
        raise FormatError("the adapter is an activated LoRA, which olla does not run")
    if "adapter_model.safetensors" not in files:
        raise FormatError("the adapter has no adapter_model.safetensors")
    tensors = TensorFiles([files["adapter_model.safetensors"]])
    modules: dict[str, None] = {}
    for name in tensors:
        match = _KEY.fullmatch(name)
        if match is None:
            raise FormatError(f"the adapter holds {name}, which is no LoRA weight")
        modules[match["module"]] = None
    if not modules:
        raise FormatError("the adapter holds no weights")
    for module in modules:
        yield _pair(tensors, module, config)


def _pair(tensors: TensorFiles, module: str, config: Mapping[str, Any]) -> LoraPair:
    a = tensors.get(f"{_PREFIX}{module}.lora_A.weight")
    b = tensors.get(f"{_PREFIX}{module}.lora_B.weight")
    if a is None or b is None:
        raise FormatError(f"the adapter's {module} lacks its lora_A or lora_B")
    if a.ndim != 2 or b.ndim != 2:
        raise FormatError(f"the adapter's {module} is not a pair of matrices")
    rank = a.shape[0]
    alpha = _for_module(config, "alpha_pattern", module, config.get("lora_alpha", rank))
    scale = alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
    return LoraPair(module, a, b * scale)


def _for_module(config: Mapping[str, Any], pattern: str, module: str, default: float) -> float:
    """peft's rule: a key of the pattern is a regular expression for the end of the name."""
    for key, value in (config.get(pattern) or {}).items():
        if re.fullmatch(rf"(.*\.)?({key})", module):
            return float(value)
    return float(default)
