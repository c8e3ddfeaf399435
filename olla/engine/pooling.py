"""From a text's hidden states to its vector, as its repository says.

sentence-transformers' files are read: `modules.json` names what comes after the network, each in a
folder of its own. The last of them, which makes vectors of unit length, is left to whoever asks
for vectors. Knows nothing about batches: texts come in groups of one length, without padding.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from olla.engine.weights.safetensors import TensorFiles, read_json
from olla.errors import FormatError

MODULES = "modules.json"


class Pooling(StrEnum):
    """Which hidden states a vector is made of, in sentence-transformers' words."""

    CLS = "cls"
    MAX = "max"
    MEAN = "mean"
    MEAN_SQRT_LENGTH = "mean_sqrt_len_tokens"
    WEIGHTED_MEAN = "weightedmean"
    LAST = "lasttoken"


GGUF_POOLINGS = {1: Pooling.MEAN, 2: Pooling.CLS, 3: Pooling.LAST}
"""llama.cpp's numbers for them, as `<architecture>.pooling_type` has them."""

_FLAGS = {
    "pooling_mode_cls_token": Pooling.CLS,
    "pooling_mode_max_tokens": Pooling.MAX,
    "pooling_mode_mean_tokens": Pooling.MEAN,
    "pooling_mode_mean_sqrt_len_tokens": Pooling.MEAN_SQRT_LENGTH,
    "pooling_mode_weightedmean_tokens": Pooling.WEIGHTED_MEAN,
    "pooling_mode_lasttoken": Pooling.LAST,
}
"""Older repositories have one flag for each; vectors of several stand side by side, so ordered."""

_ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "Identity": lambda states: states,
    "Tanh": torch.tanh,
    "ReLU": functional.relu,
    "GELU": functional.gelu,
}


@dataclass(frozen=True, slots=True)
class Dense:
    """A linear layer over the pooled vector."""

    weight: Tensor
    bias: Tensor | None
    activation: Callable[[Tensor], Tensor]

    def __call__(self, vectors: Tensor) -> Tensor:
        return self.activation(functional.linear(vectors, self.weight, self.bias))


@dataclass(frozen=True, slots=True)
class Head:
    poolings: tuple[Pooling, ...]
    dense: tuple[Dense, ...] = ()

    def __call__(self, states: Tensor) -> Tensor:
        """Hidden states (num_texts, length, hidden_size) -> vectors (num_texts, width) float32."""
        wide = states.float()
        vectors = torch.cat([_pool(wide, pooling) for pooling in self.poolings], dim=-1)
        for layer in self.dense:
            vectors = layer(vectors)
        return vectors


def read_head(files: Mapping[str, Path], device: torch.device, default: Pooling) -> Head:
    """What a repository puts on top of its network; `default` where it does not say.

    Raises:
        FormatError: a file is broken, or of a kind that olla does not know.
    """
    poolings: tuple[Pooling, ...] = ()
    dense: list[Dense] = []
    for kind, folder in _modules(files):
        if kind == "Pooling":
            poolings = _poolings(read_json(files, f"{folder}/config.json"))
        elif kind == "Dense":
            dense.append(_dense(files, folder, device))
        elif kind not in {"Transformer", "Normalize", "Dropout"}:
            raise FormatError(f"{MODULES} has a module {kind!r}, which olla does not know")
    return Head(poolings or (default,), tuple(dense))


def _pool(states: Tensor, pooling: Pooling) -> Tensor:
    length = states.shape[1]
    match pooling:
        case Pooling.CLS:
            return states[:, 0]
        case Pooling.LAST:
            return states[:, -1]
        case Pooling.MAX:
            return states.amax(1)
        case Pooling.MEAN:
            return states.mean(1)
        case Pooling.MEAN_SQRT_LENGTH:
            return states.sum(1) / math.sqrt(length)
        case Pooling.WEIGHTED_MEAN:
            weights = torch.arange(1.0, length + 1, device=states.device)
            return (states * weights[:, None]).sum(1) / weights.sum()


def _modules(files: Mapping[str, Path]) -> list[tuple[str, str]]:
    """The last name of each module's class, and its folder."""
    if MODULES not in files:
        return []
    try:
        modules = json.loads(files[MODULES].read_text(encoding="utf-8"))
        return [(str(entry["type"]).rpartition(".")[2], entry["path"]) for entry in modules]
    except (ValueError, TypeError, KeyError) as error:
        raise FormatError(f"{MODULES} is not a list of modules") from error


def _poolings(config: Mapping[str, Any]) -> tuple[Pooling, ...]:
    mode = config.get("pooling_mode")
    names = [mode] if isinstance(mode, str) else mode
    if names is None:
        names = [pooling for flag, pooling in _FLAGS.items() if config.get(flag)]
    try:
        return tuple(Pooling(name) for name in names)
    except (ValueError, TypeError) as error:
        raise FormatError(f"olla does not know the pooling {mode!r}") from error


def _dense(files: Mapping[str, Path], folder: str, device: torch.device) -> Dense:
    config = read_json(files, f"{folder}/config.json")
    name = str(config.get("activation_function", "Tanh")).rpartition(".")[2]
    weights = f"{folder}/model.safetensors"
    if name not in _ACTIVATIONS or weights not in files:
        raise FormatError(f"{folder} needs model.safetensors and an activation that olla knows")
    tensors = TensorFiles([files[weights]])
    weight, bias = tensors.get("linear.weight"), tensors.get("linear.bias")
    if weight is None:
        raise FormatError(f"{weights} lacks linear.weight")
    return Dense(
        weight=weight.to(device, torch.float32),
        bias=None if bias is None else bias.to(device, torch.float32),
        activation=_ACTIVATIONS[name],
    )
