"""What GGUF calls a tensor -> what its Hugging Face checkpoint calls the same parameter.

One canonical naming lets adapters (peft's) and decoders speak of a weight without knowing which
file it came from. Knows names only, nothing about layouts or values. GGUF's names are those of
llama.cpp's gguf-py (`MODEL_TENSOR`); one name can mean different norms in different families.
"""

from __future__ import annotations

import re

_TOP = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
    "output.bias": "lm_head.bias",
}

_BLOCK = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_qkv": "self_attn.qkv_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}

_EXPERTS = {
    **_BLOCK,
    "ffn_gate_inp": "mlp.gate",
    "ffn_gate_exps": "mlp.experts.gate_proj",
    "ffn_up_exps": "mlp.experts.up_proj",
    "ffn_down_exps": "mlp.experts.down_proj",
    "ffn_gate_inp_shexp": "mlp.shared_expert_gate",
    "ffn_gate_shexp": "mlp.shared_expert.gate_proj",
    "ffn_up_shexp": "mlp.shared_expert.up_proj",
    "ffn_down_shexp": "mlp.shared_expert.down_proj",
}

_SANDWICH_NORMS = {
    "ffn_norm": "pre_feedforward_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}

_FAMILY_BLOCKS = {
    "llama": _EXPERTS,
    "qwen2": _BLOCK,
    "qwen3": _BLOCK,
    "granite": _BLOCK,
    "smollm3": _BLOCK,
    "phi3": {**_BLOCK, "ffn_up": "mlp.gate_up_proj"},
    "gemma2": {**_BLOCK, **_SANDWICH_NORMS},
    "gemma3": {**_BLOCK, **_SANDWICH_NORMS},
    "olmo2": {**_BLOCK, **_SANDWICH_NORMS},
    "olmoe": _EXPERTS,
    "granitemoe": _EXPERTS,
    "qwen2moe": _EXPERTS,
    "qwen3moe": _EXPERTS,
}

_BLOCK_NAME = re.compile(r"blk\.(\d+)\.([a-z_]+)\.(weight|bias)")
# Mixtral's first files have one tensor for each expert.
_EXPERT_NAME = re.compile(r"blk\.(\d+)\.ffn_(gate|up|down)\.(\d+)\.weight")

_HF_BLOCK_NAME = re.compile(r"model\.layers\.(\d+)\.(.+)\.(weight|bias)")


def gguf_name(architecture: str, name: str) -> str | None:
    """The other way round; None for a parameter or a family that has no name there."""
    blocks = _FAMILY_BLOCKS.get(architecture)
    if blocks is None:
        return None
    match = _HF_BLOCK_NAME.fullmatch(name)
    if match is None:
        return next((known for known, hf in _TOP.items() if hf == name), None)
    part = next((part for part, module in blocks.items() if module == match[2]), None)
    return None if part is None else f"blk.{match[1]}.{part}.{match[3]}"


def hf_name(architecture: str, gguf_name: str) -> str | None:
    """The parameter's Hugging Face name; None for a tensor or a family that has none here."""
    blocks = _FAMILY_BLOCKS.get(architecture)
    if blocks is None:
        return None
    match = _BLOCK_NAME.fullmatch(gguf_name)
    if match is None and (expert := _EXPERT_NAME.fullmatch(gguf_name)):
        layer, which, number = expert.groups()
        return f"model.layers.{layer}.mlp.experts.{number}.{which}_proj.weight"
    if match is None:
        return _TOP.get(gguf_name)
    module = blocks.get(match[2])
    return None if module is None else f"model.layers.{match[1]}.{module}.{match[3]}"
