"""How much memory a model will need, told from the header of its weights before it is loaded.

Only to decide whether it fits beside others; what it really takes is known after the load. The
formula is spec/scheduler.md section 6: the weights, and keys and values of one window; the same of
a model that drafts.
"""

from __future__ import annotations

from olla.registry.model import Model
from olla.registry.weights import WeightsHeader
from olla.settings import Settings

_BITS = {"int8": 8.5, "int4": 4.5, "nf4": 4.5}  # with their scales
_UNPACKED = frozenset({"NF4", "FP4"})  # on a CPU; a GPU needs less


def needed_bytes(model: Model, quantize: str, num_ctx: int, settings: Settings) -> int:
    """
    Args:
        quantize: how the model or the request wants its weights; "" leaves it to the settings.
    """
    quantize = quantize or settings.quantize
    size, headers = _weights_bytes(model, quantize, settings.dtype), [model.header]
    if settings.speculate != "off":
        size += _draft_bytes(model)
        headers.append(model.draft_header)
    bits = _kv_bits(quantize, settings)
    cache = sum(_cache_bytes(header, num_ctx, bits) for header in headers)
    return size + (settings.kv_cache_bytes or cache)


def _weights_bytes(model: Model, quantize: str, dtype: str) -> int:
    if quantize in _BITS:
        return int(model.parameter_count * _BITS[quantize] / 8)
    if quantize == "none" or dtype != "auto":
        return model.parameter_count * (4 if dtype == "float32" else 2)
    if model.quantization_level in _UNPACKED:
        return 2 * model.parameter_count
    return model.size_bytes - _draft_bytes(model)


def _draft_bytes(model: Model) -> int:
    return model.draft.stat().st_size if model.draft else 0


def _kv_bits(quantize: str, settings: Settings) -> float:
    """Of a key or a value: 8 and its share of a scale only where the compiled core may be used."""
    may_be_cores = settings.dtype == "auto" and quantize != "none" and "cuda" not in settings.device
    return 8.5 if settings.kv_cache_type == "q8_0" and may_be_cores else 16


def _cache_bytes(header: WeightsHeader, num_ctx: int, bits: float) -> int:
    number, name = header.number, header.architecture
    num_heads = number(f"{name}.attention.head_count")
    num_kv_heads = number(f"{name}.attention.head_count_kv") or num_heads
    width = number(f"{name}.embedding_length") // max(num_heads, 1)
    width = number(f"{name}.attention.key_length") or width
    count = 2 * number(f"{name}.block_count") * num_kv_heads * width * num_ctx
    return int(count * bits / 8)
