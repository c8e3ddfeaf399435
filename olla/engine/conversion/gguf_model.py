"""A FloatModel written as a GGUF file, quantized or not, that llama.cpp and Ollama load."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np
import torch
from torch import Tensor

from olla.engine.conversion.quants import quantize
from olla.engine.conversion.recipes import Recipe, type_for
from olla.engine.conversion.source import EMBEDDING, HEAD, FloatModel
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
from olla.formats.ggml_types import GgmlType
from olla.formats.tensor_names import gguf_name

OnProgress = Callable[[int, int], None]

_ROPE_FACTORS = "rope_freqs.weight"
_CHUNK_ELEMENTS = 1 << 22
_DERIVED = ("GGUF.", "split.", "general.file_type", "general.quantization_version")


class _Planned(NamedTuple):
    name: str
    gguf_name: str
    shape: tuple[int, ...]
    type: GgmlType

    @property
    def num_bytes(self) -> int:
        elements = int(np.prod(self.shape))
        return elements // self.type.block_elements * self.type.block_bytes


def write_gguf(
    model: FloatModel, recipe: Recipe, path: Path, chat_template: str, on_progress: OnProgress
) -> None:
    """
    Args:
        chat_template: kept in the file, for programs that read it there.
        on_progress: told the bytes written so far and those of the whole.

    Raises:
        FormatError: a part of the model has no form in GGUF.
    """
    architecture = _architecture(model)
    plan = [*_plan(model, recipe, architecture)]
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in _metadata(model, architecture, chat_template).items():
        _add(writer, key, value)
    writer.add_file_type(recipe.file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    factors = _factors(model)
    if factors is not None:
        writer.add_tensor(_ROPE_FACTORS, factors.numpy())
    for item in plan:
        writer.add_tensor_info(
            item.gguf_name, item.shape, np.dtype(np.float32), item.num_bytes,
            gguf.GGMLQuantizationType(int(item.type)),
        )  # fmt: skip
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    if factors is not None:
        writer.write_tensor_data(factors.numpy())
    done, total = 0, sum(item.num_bytes for item in plan)
    for item in plan:
        writer.write_tensor_data(_data(model, item, architecture))
        done += item.num_bytes
        on_progress(done, total)
    writer.close()


def _architecture(model: FloatModel) -> str:
    return architecture_of(str(model.checkpoint.config.get("model_type")))


def _plan(model: FloatModel, recipe: Recipe, architecture: str) -> Iterator[_Planned]:
    num_layers = len(model.config.layers)
    for name in model.names:
        if name == _ROPE_FACTORS:
            continue
        known = gguf_name(architecture, name)
        if known is None:
            raise FormatError(f"{name} has no name in GGUF files of {architecture}")
        shape = model.shape(name)
        is_head = name == HEAD or (name == EMBEDDING and model.ties_head)
        kind = type_for(recipe, name, shape, num_layers, is_head=is_head)
        yield _Planned(name, known, shape, kind)


def _data(model: FloatModel, item: _Planned, architecture: str) -> np.ndarray[Any, Any]:
    values = model.read(item.name)
    if architecture in NORMS_PLUS_ONE and item.name.endswith("norm.weight"):
        values = values + 1.0
    if architecture in INTERLEAVED and item.name.endswith(INTERLEAVED_NAMES):
        is_query = ".q_proj." in item.name
        values = interleaved(
            values, model.config.num_heads if is_query else model.config.num_kv_heads
        )
    return _quantized(values, item.type)


def _quantized(values: Tensor, kind: GgmlType) -> np.ndarray[Any, Any]:
    if kind is GgmlType.F32:
        return values.contiguous().numpy()
    rows = max(_CHUNK_ELEMENTS // values.shape[-1], 1)
    return np.concatenate([quantize(part.contiguous(), kind) for part in torch.split(values, rows)])


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


def _factors(model: FloatModel) -> Tensor | None:
    if _ROPE_FACTORS in model.names:
        return model.read(_ROPE_FACTORS)
    return frequency_factors(model.config.rope, model.config.head_dim)


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
