"""DecoderConfig: every way in which the families of the lean decoder differ, as plain numbers.

Read from a Hugging Face config.json; GGUF metadata is brought into that form first
(weights/gguf_config.py), so there is one reading of a model's shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from olla.errors import FormatError


class QkNorm(StrEnum):
    """Whether queries and keys are normalised: per head, over the whole projection, or not."""

    NONE = "none"
    HEAD = "head"
    FULL = "full"


class NormPlacement(StrEnum):
    """Where a block's RMSNorms stand: before each half, after it, or both."""

    PRE = "pre"
    POST = "post"
    SANDWICH = "sandwich"


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """Rotary embedding of one kind of layer. `scaling` is "default", "linear" or "llama3"."""

    theta: float = 10_000.0
    scaling: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context_length: int = 8192
    rotary_fraction: float = 1.0


@dataclass(frozen=True, slots=True)
class LayerConfig:
    """What can differ from layer to layer. `sliding_window` 0 sees everything before it."""

    sliding_window: int = 0
    uses_local_rope: bool = False
    uses_rope: bool = True
    has_experts: bool = False


@dataclass(frozen=True, slots=True)
class ExpertsConfig:
    """A mixture: each token goes through those `num_used` of `count` experts that a router likes.

    `normalizes`: their shares add up to one, else they are what the softmax over all gives them.
    `shared_size`: the intermediate size of an expert that sees every token, 0 for none.
    """

    count: int
    num_used: int
    size: int
    normalizes: bool
    shared_size: int = 0


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    context_length: int
    norm_eps: float
    rope: RopeConfig
    local_rope: RopeConfig
    layers: tuple[LayerConfig, ...]
    experts: ExpertsConfig | None = None
    activation: str = "silu"
    qk_norm: QkNorm = QkNorm.NONE
    norm_placement: NormPlacement = NormPlacement.PRE
    norm_adds_one: bool = False
    attention_scale: float = 0.0
    attention_softcap: float = 0.0
    logit_softcap: float = 0.0
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    logit_scale: float = 1.0


def read_count(config: Mapping[str, Any], key: str, default: int | None = None) -> int:
    """A positive whole number of the config.

    Raises:
        FormatError: missing or not one.
    """
    value = config.get(key)
    value = default if value is None else value
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**31:
        raise FormatError(f"config.json: {key} must be a positive whole number, not {value!r}")
    return value


def read_number(config: Mapping[str, Any], key: str, default: float) -> float:
    """A number of the config; null means the default.

    Raises:
        FormatError: not a number.
    """
    value = config.get(key)
    value = default if value is None else value
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise FormatError(f"config.json: {key} must be a number, not {value!r}")
    return float(value)
