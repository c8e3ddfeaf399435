"""A FloatModel as the content of a GGUF file, for the families that our own decoder computes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from torch import Tensor

from olla.engine.conversion.gguf_file import Content, Output
from olla.engine.conversion.source import FloatModel
from olla.engine.conversion.vocabulary import vocabulary_metadata
from olla.engine.models.rope import frequency_factors
from olla.engine.weights.gguf import (
    INTERLEAVED,
    INTERLEAVED_NAMES,
    NORMS_PLUS_ONE,
    GgufCheckpoint,
    interleaved,
)
from olla.engine.weights.gguf_config import architecture_of
from olla.errors import FormatError
from olla.formats.tensor_names import gguf_name

_ROPE_FACTORS = "rope_freqs.weight"
_DERIVED = ("GGUF.", "split.", "general.file_type", "general.quantization_version")


def gguf_content(model: FloatModel, chat_template: str) -> Content:
    """
    Args:
        chat_template: kept in the file, for programs that read it there.

    Raises:
        FormatError: a part of the model has no form in GGUF.
    """
    architecture = architecture_of(str(model.checkpoint.config.get("model_type")))
    tensors = [*_factors(model), *_tensors(model, architecture)]
    metadata = _metadata(model, architecture, chat_template)
    return Content(architecture, len(model.config.layers), metadata, tensors)


def _tensors(model: FloatModel, architecture: str) -> Iterator[Output]:
    for name in model.names:
        if name == _ROPE_FACTORS:
            continue
        known = gguf_name(architecture, name)
        if known is None:
            raise FormatError(f"{name} has no name in GGUF files of {architecture}")
        yield Output(known, model.shape(name), partial(_read, model, name, architecture))


def _read(model: FloatModel, name: str, architecture: str) -> Tensor:
    """A parameter in the layout that llama.cpp wants it in."""
    values = model.read(name)
    if architecture in NORMS_PLUS_ONE and name.endswith("norm.weight"):
        return values + 1.0
    if architecture in INTERLEAVED and name.endswith(INTERLEAVED_NAMES):
        is_query = ".q_proj." in name
        return interleaved(
            values, model.config.num_heads if is_query else model.config.num_kv_heads
        )
    return values


def _metadata(model: FloatModel, architecture: str, chat_template: str) -> dict[str, Any]:
    """A file's own, if the model came from GGUF; else what its config and tokenizer say."""
    checkpoint = model.checkpoint
    if isinstance(checkpoint, GgufCheckpoint):
        return {
            key: value
            for key, value in checkpoint.metadata.items()
            if not key.startswith(_DERIVED) and key != "general.architecture"
        }
    tokenizer = checkpoint.tokenizer()
    special = checkpoint.special_tokens(tokenizer)
    found = {f"{architecture}.{key}": value for key, value in _hyperparameters(model)}
    found |= vocabulary_metadata(tokenizer, special, model.config.vocab_size)
    if chat_template:
        found["tokenizer.chat_template"] = chat_template
    return {"general.name": str(checkpoint.config.get("_name_or_path") or architecture), **found}


def _hyperparameters(model: FloatModel) -> Iterator[tuple[str, int | float | str]]:
    config = model.config
    yield "context_length", config.context_length
    yield "embedding_length", config.hidden_size
    yield "block_count", len(config.layers)
    yield "feed_forward_length", config.intermediate_size
    yield "attention.head_count", config.num_heads
    yield "attention.head_count_kv", config.num_kv_heads
    yield "attention.key_length", config.head_dim
    yield "attention.value_length", config.head_dim
    yield "attention.layer_norm_rms_epsilon", config.norm_eps
    yield "rope.freq_base", config.rope.theta
    yield "rope.dimension_count", int(config.head_dim * config.rope.rotary_fraction)
    yield "vocab_size", config.vocab_size
    if config.rope.scaling == "linear":
        yield "rope.scaling.type", "linear"
        yield "rope.scaling.factor", config.rope.factor
    window = max(layer.sliding_window for layer in config.layers)
    if window:
        yield "attention.sliding_window", window
    if config.attention_softcap:
        yield "attn_logit_softcapping", config.attention_softcap
    if config.logit_softcap:
        yield "final_logit_softcapping", config.logit_softcap
    if config.architecture == "granite":
        yield "attention.scale", config.attention_scale
        yield "embedding_scale", config.embedding_scale
        yield "residual_scale", config.residual_scale
        yield "logit_scale", 1.0 / config.logit_scale


def _factors(model: FloatModel) -> Iterator[Output]:
    factors = frequency_factors(model.config.rope, model.config.head_dim)
    if _ROPE_FACTORS in model.names:
        factors = model.read(_ROPE_FACTORS)
    if factors is not None:
        yield Output(_ROPE_FACTORS, tuple(factors.shape), partial(_same, factors))


def _same(values: Tensor) -> Tensor:
    return values
