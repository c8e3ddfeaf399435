"""GGUF metadata -> the config.json that the same model has on Hugging Face.

Key names are llama.cpp's (gguf-py `Keys`); what a file leaves out is what llama.cpp fills in for
that architecture.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from olla.errors import FormatError

MODEL_TYPES: Mapping[str, str] = {
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "granite": "granite",
    "smollm3": "smollm3",
    "phi3": "phi3",
    "gemma2": "gemma2",
    "gemma3": "gemma3_text",
    "olmo2": "olmo2",
    "olmoe": "olmoe",
    "granitemoe": "granitemoe",
    "qwen2moe": "qwen2_moe",
    "qwen3moe": "qwen3_moe",
}
_NORMALIZING = frozenset({"qwen3moe"})  # others' shares are what the softmax over all experts gives
# The largest Gemmas scale their scores by hidden/heads instead of by head_dim; their layer
# counts are how llama.cpp tells them.
_LARGEST_GEMMAS = {("gemma2", 46), ("gemma3", 62)}

_KEYS = {
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "max_position_embeddings": "context_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "rope_theta": "rope.freq_base",
    "sliding_window": "attention.sliding_window",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "attention_multiplier": "attention.scale",
    "embedding_multiplier": "embedding_scale",
    "residual_multiplier": "residual_scale",
    "logits_scaling": "logit_scale",
    "num_experts": "expert_count",
    "num_experts_per_tok": "expert_used_count",
    "moe_intermediate_size": "expert_feed_forward_length",
    "shared_expert_intermediate_size": "expert_shared_feed_forward_length",
}


def config_from_metadata(metadata: Mapping[str, Any], vocab_size: int) -> dict[str, Any]:
    """The Hugging Face config of a GGUF file.

    Args:
        vocab_size: rows of the embedding, which counts padding that the vocabulary lacks.

    Raises:
        FormatError: an architecture that olla does not run, or metadata of the wrong kind.
    """
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str) or architecture not in MODEL_TYPES:
        known = ", ".join(sorted(MODEL_TYPES))
        raise FormatError(f'unsupported architecture "{architecture}"; olla runs {known} from GGUF')
    found = {name: metadata.get(f"{architecture}.{key}") for name, key in _KEYS.items()}
    config: dict[str, Any] = {
        name: _scalar(name, value) for name, value in found.items() if value is not None
    }
    config.update(model_type=MODEL_TYPES[architecture], vocab_size=vocab_size)
    if config.get("num_experts"):
        _add_experts(config, architecture)
    config["rope_scaling"] = _rope_scaling(metadata, architecture)
    _add_rotary_fraction(config, metadata, architecture)
    if architecture.startswith("gemma"):
        _add_gemma_scale(config, architecture)
    return config


def architecture_of(model_type: str) -> str:
    """What GGUF calls a type of model; Mistral's are Llama's there."""
    names = {known: name for name, known in MODEL_TYPES.items()} | {"mistral": "llama"}
    if model_type not in names:
        raise FormatError(f'models of type "{model_type}" have no form in GGUF that olla writes')
    return names[model_type]


def _scalar(name: str, value: Any) -> int | float:
    if isinstance(value, tuple):
        if len(set(value)) != 1:
            raise FormatError(f"{name} differs from layer to layer, which olla does not support")
        value = value[0]
    if not isinstance(value, int | float):
        raise FormatError(f"the GGUF file's {name} must be a number, not {value!r}")
    return value


def _rope_scaling(metadata: Mapping[str, Any], architecture: str) -> dict[str, Any]:
    kind = metadata.get(f"{architecture}.rope.scaling.type", "none")
    if kind == "none":
        return {}
    factor = metadata.get(f"{architecture}.rope.scaling.factor", 1.0)
    return {"rope_type": kind, "factor": factor}


def _add_rotary_fraction(
    config: dict[str, Any], metadata: Mapping[str, Any], architecture: str
) -> None:
    rotary = metadata.get(f"{architecture}.rope.dimension_count")
    heads, hidden = config.get("num_attention_heads"), config.get("hidden_size")
    head_dim = config.get("head_dim") or (heads and hidden and hidden // heads)
    if rotary and head_dim:
        config["partial_rotary_factor"] = _scalar("rope.dimension_count", rotary) / head_dim


def _add_experts(config: dict[str, Any], architecture: str) -> None:
    if architecture == "llama":
        config["model_type"] = "mixtral"
    config["norm_topk_prob"] = architecture in _NORMALIZING
    size, num_used = config.get("intermediate_size", 0), config.get("num_experts_per_tok", 0)
    if architecture == "qwen2moe":  # the first files leave these out
        config.setdefault("moe_intermediate_size", size // max(num_used, 1))
        config.setdefault("shared_expert_intermediate_size", size)


def _add_gemma_scale(config: dict[str, Any], architecture: str) -> None:
    layers, head_dim = config.get("num_hidden_layers"), config.get("head_dim", 256)
    config["query_pre_attn_scalar"] = (
        config["hidden_size"] // config["num_attention_heads"]
        if (architecture, layers) in _LARGEST_GEMMAS
        else head_dim
    )
