"""The families that the lean decoder computes, told apart by one table.

A family is a function from config.json to the settings in which it departs from Llama. To add
one, add a function and a line in `FAMILIES`; tests/engine/test_families.py holds each against
its transformers class. Facts are from each family's reference modelling code in transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from olla.engine.models.config import (
    DecoderConfig,
    ExpertsConfig,
    LayerConfig,
    NormPlacement,
    QkNorm,
    RopeConfig,
    read_count,
    read_number,
)
from olla.errors import FormatError

Config = Mapping[str, Any]
Settings = dict[str, Any]


_ACTIVATION_NAMES = {
    "silu": ("hidden_act", (None, "silu", "swish")),
    "gelu_tanh": ("hidden_activation", (None, "gelu_pytorch_tanh")),
}


def decoder_config(config: Config) -> DecoderConfig:
    """Read a config.json whose `model_type` is in the table.

    Raises:
        FormatError: an unknown family, or a setting that is missing, wrong or not supported.
    """
    family = config.get("model_type")
    depart = FAMILIES.get(family) if isinstance(family, str) else None
    if depart is None:
        known = ", ".join(sorted(FAMILIES))
        raise FormatError(f'unsupported architecture "{family}"; olla runs {known}')
    try:
        settings = {**_common(config), **depart(config), "architecture": family}
        return _checked(DecoderConfig(**settings), config)
    except (AttributeError, TypeError, ArithmeticError) as error:
        raise FormatError(f"config.json makes no sense: {error}") from error


def _common(config: Config) -> Settings:
    heads = read_count(config, "num_attention_heads")
    hidden = read_count(config, "hidden_size")
    return {
        "vocab_size": read_count(config, "vocab_size"),
        "hidden_size": hidden,
        "intermediate_size": read_count(config, "intermediate_size"),
        "num_heads": heads,
        "num_kv_heads": read_count(config, "num_key_value_heads", heads),
        "head_dim": read_count(config, "head_dim", max(hidden // heads, 1)),
        "context_length": read_count(config, "max_position_embeddings", 2048),
        "norm_eps": read_number(config, "rms_norm_eps", 1e-6),
        "rope": _rope(config),
        "local_rope": _rope(config),
        "layers": (LayerConfig(),) * read_count(config, "num_hidden_layers"),
    }


def _checked(config: DecoderConfig, raw: Config) -> DecoderConfig:
    if config.num_heads % config.num_kv_heads:
        raise FormatError(
            f"config.json: {config.num_heads} attention heads cannot share "
            f"{config.num_kv_heads} key-value heads"
        )
    if config.head_dim % 2:
        raise FormatError(f"config.json: head_dim must be even, not {config.head_dim}")
    for fraction in (config.rope.rotary_fraction, config.local_rope.rotary_fraction):
        if not 0 < fraction <= 1:
            raise FormatError(f"config.json: partial_rotary_factor cannot be {fraction:g}")
    if len(config.layers) != raw["num_hidden_layers"]:
        raise FormatError("config.json: its lists of layers do not match num_hidden_layers")
    odd = set(raw.get("layer_types") or ()) - {"full_attention", "sliding_attention"}
    if odd or raw.get("use_bidirectional_attention"):
        what = ", ".join(sorted(map(str, odd))) or "bidirectional_attention"
        raise FormatError(f"config.json: unsupported layers of {what}")
    if config.experts is not None and config.experts.num_used > config.experts.count:
        raise FormatError(
            f"config.json: a token cannot go to {config.experts.num_used} of "
            f"{config.experts.count} experts"
        )
    key, names = _ACTIVATION_NAMES[config.activation]
    if raw.get(key) not in names:
        raise FormatError(f'config.json: unsupported {key} "{raw[key]}"')
    return config


def _rope(config: Config, layer_type: str = "full_attention") -> RopeConfig:
    """Rotary settings, as `rope_parameters` (transformers 5) or `rope_theta`/`rope_scaling`."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if layer_type in rope:
        rope = rope[layer_type]
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind not in {"default", "linear", "llama3"}:
        raise FormatError(f'unsupported rotary scaling "{kind}"; olla has default, linear, llama3')
    merged = {**config, **rope}
    return RopeConfig(
        theta=read_number(merged, "rope_theta", 10_000.0),
        scaling=kind,
        factor=read_number(rope, "factor", 1.0),
        low_freq_factor=read_number(rope, "low_freq_factor", 1.0),
        high_freq_factor=read_number(rope, "high_freq_factor", 4.0),
        original_context_length=read_count(rope, "original_max_position_embeddings", 8192),
        rotary_fraction=read_number(merged, "partial_rotary_factor", 1.0),
    )


def _llama(config: Config) -> Settings:
    return {}


def _sliding_everywhere(config: Config) -> Settings:
    """Mistral and Phi-3: one window for all layers, if any."""
    window = read_count(config, "sliding_window") if config.get("sliding_window") else 0
    num_layers = read_count(config, "num_hidden_layers")
    return {"layers": (LayerConfig(sliding_window=window),) * num_layers}


def _qwen2(config: Config) -> Settings:
    if not config.get("use_sliding_window"):
        return {}
    first = read_count(config, "max_window_layers", 28)
    window = read_count(config, "sliding_window")
    return {
        "layers": tuple(
            LayerConfig(sliding_window=window if index >= first else 0)
            for index in range(read_count(config, "num_hidden_layers"))
        )
    }


def _qwen3(config: Config) -> Settings:
    return {
        **_qwen2(config),
        "qk_norm": QkNorm.HEAD,
        "head_dim": read_count(config, "head_dim", 128),
    }


def _smollm3(config: Config) -> Settings:
    """Some layers see no positions at all (`no_rope_layers`: 1 rotates, 0 does not)."""
    num_layers = read_count(config, "num_hidden_layers")
    if config.get("use_sliding_window"):
        raise FormatError("config.json: olla runs smollm3 without a sliding window only")
    interval = read_count(config, "no_rope_layer_interval", 4)
    rotates = config.get("no_rope_layers") or [
        int((index + 1) % interval != 0) for index in range(num_layers)
    ]
    return {"layers": tuple(LayerConfig(uses_rope=bool(flag)) for flag in rotates[:num_layers])}


def _granite(config: Config) -> Settings:
    return {
        "attention_scale": read_number(config, "attention_multiplier", 1.0),
        "embedding_scale": read_number(config, "embedding_multiplier", 1.0),
        "residual_scale": read_number(config, "residual_multiplier", 1.0),
        "logit_scale": 1.0 / read_number(config, "logits_scaling", 1.0),
    }


def _olmo2(config: Config) -> Settings:
    if config.get("sliding_window"):
        raise FormatError('unsupported architecture "olmo3"; olla runs its predecessor olmo2')
    return {"qk_norm": QkNorm.FULL, "norm_placement": NormPlacement.POST}


def _gemma2(config: Config) -> Settings:
    scale = read_number(config, "query_pre_attn_scalar", 256.0)
    return {
        "activation": "gelu_tanh",
        "norm_placement": NormPlacement.SANDWICH,
        "norm_adds_one": True,
        "head_dim": read_count(config, "head_dim", 256),
        "attention_scale": scale**-0.5,
        "attention_softcap": read_number(config, "attn_logit_softcapping", 0.0),
        "logit_softcap": read_number(config, "final_logit_softcapping", 0.0),
        "embedding_scale": read_count(config, "hidden_size") ** 0.5,
        "layers": _sliding_pattern(config, default_period=2),
    }


def _gemma3(config: Config) -> Settings:
    """Sliding layers rotate with a base of their own and without scaling."""
    if "sliding_attention" in (config.get("rope_parameters") or {}):
        local = _rope(config, "sliding_attention")
    else:
        local = RopeConfig(theta=read_number(config, "rope_local_base_freq", 10_000.0))
    return {
        **_gemma2(config),
        "qk_norm": QkNorm.HEAD,
        "local_rope": local,
        "layers": _sliding_pattern(config, default_period=6, local_rope=True),
    }


def _experts(config: Config, **settings: Any) -> Settings:
    """A mixture in each layer; `settings` are what departs from Mixtral's."""
    # Their number has one of two names, whatever the family: transformers 5 mixes them up.
    key = "num_experts" if "num_experts" in config else "num_local_experts"
    own = {
        "count": read_count(config, key),
        "num_used": read_count(config, "num_experts_per_tok"),
        "size": read_count(config, "intermediate_size"),
        "normalizes": True,
    }
    layers = (LayerConfig(has_experts=True),) * read_count(config, "num_hidden_layers")
    return {"layers": layers, "experts": ExpertsConfig(**{**own, **settings})}


def _with_experts(layers: Settings, experts: Settings, config: Config) -> Settings:
    """Qwen's: some layers may have a plain MLP instead."""
    plain = set(config.get("mlp_only_layers") or ())
    step = read_count(config, "decoder_sparse_step", 1)
    return {
        **experts,
        "layers": tuple(
            replace(layer, has_experts=index not in plain and (index + 1) % step == 0)
            for index, layer in enumerate(layers["layers"])
        ),
    }


def _mixtral(config: Config) -> Settings:
    experts = _experts(config)
    return _with_experts(_sliding_everywhere(config), experts, {})


def _olmoe(config: Config) -> Settings:
    if config.get("clip_qkv") is not None:
        raise FormatError("config.json: olla runs olmoe without clip_qkv only")
    normalizes = bool(config.get("norm_topk_prob"))
    return {**_experts(config, normalizes=normalizes), "qk_norm": QkNorm.FULL}


def _granitemoe(config: Config) -> Settings:
    if config.get("shared_expert_intermediate_size"):  # as GGUF files of that family have
        raise FormatError('unsupported architecture "granitemoeshared"; olla runs granitemoe')
    return {**_granite(config), **_experts(config)}


def _qwen2_moe(config: Config) -> Settings:
    window = read_count(config, "sliding_window") if config.get("use_sliding_window") else 0
    num_layers = read_count(config, "num_hidden_layers")
    first = read_count(config, "max_window_layers", 28)
    types = config.get("layer_types") or [
        "sliding_attention" if window and index % 2 == 0 and index < first else "full_attention"
        for index in range(num_layers)
    ]
    slides = [kind == "sliding_attention" for kind in types[:num_layers]]
    layers = tuple(LayerConfig(sliding_window=window if slide else 0) for slide in slides)
    experts = _qwen_experts(config, read_count(config, "shared_expert_intermediate_size", 5632))
    return _with_experts({"layers": layers}, experts, config)


def _qwen3_moe(config: Config) -> Settings:
    uses_window = bool(config.get("use_sliding_window"))
    layers = _sliding_everywhere({**config, **({} if uses_window else {"sliding_window": None})})
    return {
        "qk_norm": QkNorm.HEAD,
        **_with_experts(layers, _qwen_experts(config, 0), config),
    }


def _qwen_experts(config: Config, shared_size: int) -> Settings:
    return _experts(
        config,
        size=read_count(config, "moe_intermediate_size"),
        normalizes=bool(config.get("norm_topk_prob")),
        shared_size=shared_size,
    )


def _sliding_pattern(
    config: Config, default_period: int, local_rope: bool = False
) -> tuple[LayerConfig, ...]:
    """Every `period`-th layer sees everything, the others a window."""
    num_layers = read_count(config, "num_hidden_layers")
    period = read_count(config, "sliding_window_pattern", default_period)
    window = read_count(config, "sliding_window", 4096)
    types = config.get("layer_types") or [
        "full_attention" if (index + 1) % period == 0 else "sliding_attention"
        for index in range(num_layers)
    ]
    slides = [kind == "sliding_attention" for kind in types[:num_layers]]
    return tuple(
        LayerConfig(sliding_window=window if sliding else 0, uses_local_rope=sliding and local_rope)
        for sliding in slides
    )


FAMILIES: Mapping[str, Callable[[Config], Settings]] = {
    "llama": _llama,
    "mistral": _sliding_everywhere,
    "phi3": _sliding_everywhere,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "smollm3": _smollm3,
    "granite": _granite,
    "olmo2": _olmo2,
    "gemma2": _gemma2,
    "gemma3_text": _gemma3,
    "mixtral": _mixtral,
    "olmoe": _olmoe,
    "granitemoe": _granitemoe,
    "qwen2_moe": _qwen2_moe,
    "qwen3_moe": _qwen3_moe,
}
