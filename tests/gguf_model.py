"""A Hugging Face model written as GGUF, the way llama.cpp's converter lays it out.

The layout is told here a second time, from the converter's rules and not from our reader, so that
a test of one against the other means something.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType

_INTERLEAVED = {"llama", "granite", "granitemoe", "smollm3"}
_MODULES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate": "ffn_gate_inp",
    "mlp.experts.gate_proj": "ffn_gate_exps",
    "mlp.experts.up_proj": "ffn_up_exps",
    "mlp.experts.down_proj": "ffn_down_exps",
    "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
    "mlp.shared_expert.gate_proj": "ffn_gate_shexp",
    "mlp.shared_expert.up_proj": "ffn_up_shexp",
    "mlp.shared_expert.down_proj": "ffn_down_shexp",
}
_SANDWICH = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}


def write_gguf(
    path: Path,
    model: Any,
    architecture: str,
    quantization: GGMLQuantizationType = GGMLQuantizationType.F32,
    add_metadata: Callable[[gguf.GGUFWriter], None] = lambda writer: None,
    exceptions: Mapping[str, GGMLQuantizationType] = MappingProxyType({}),
) -> Path:
    """Write a transformers model; matrices whose rows fit are quantized.

    `exceptions`: parameters that are quantized otherwise.
    """
    writer = gguf.GGUFWriter(path, architecture)
    _add_shape(writer, model.config)
    _add_bytes_vocabulary(writer, model.config.vocab_size)
    add_metadata(writer)
    for name, tensor in _experts_apart(model.state_dict()):
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        values = _converted(name, tensor.float(), architecture, model.config).numpy()
        _add_tensor(
            writer, _gguf_name(name, architecture), values, exceptions.get(name, quantization)
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _experts_apart(state: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """Gates and ups of the experts in a tensor each, all by Qwen's names, no dimension of one."""
    for given, tensor in state.items():
        name = given.replace("block_sparse_moe.router", "mlp.gate")
        name = name.replace("block_sparse_moe", "mlp")
        if name.endswith("experts.gate_up_proj"):
            for part, half in zip(("gate", "up"), tensor.chunk(2, dim=1), strict=True):
                yield name.replace("gate_up_proj", f"{part}_proj.weight"), half
        elif name.endswith("experts.down_proj"):
            yield f"{name}.weight", tensor
        else:
            yield name, tensor.squeeze()


def _add_shape(writer: gguf.GGUFWriter, config: Any) -> None:
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    head_dim = getattr(config, "head_dim", None)
    writer.add_key_length(head_dim or config.hidden_size // config.num_attention_heads)
    rope = config.rope_parameters
    writer.add_rope_freq_base(rope.get("full_attention", rope)["rope_theta"])
    if window := getattr(config, "sliding_window", None):
        writer.add_sliding_window(window)
    if cap := getattr(config, "attn_logit_softcapping", None):
        writer.add_attn_logit_softcapping(cap)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    count = getattr(config, "num_experts", getattr(config, "num_local_experts", 0))
    if count:
        writer.add_expert_count(count)
        writer.add_expert_used_count(config.num_experts_per_tok)
    if size := getattr(config, "moe_intermediate_size", 0):
        writer.add_expert_feed_forward_length(size)
    if size := getattr(config, "shared_expert_intermediate_size", 0):
        writer.add_expert_shared_feed_forward_length(size)
    if config.model_type.startswith("granite"):
        writer.add_attention_scale(config.attention_multiplier)
        writer.add_embedding_scale(config.embedding_multiplier)
        writer.add_residual_scale(config.residual_multiplier)
        writer.add_logit_scale(config.logits_scaling)


def _add_bytes_vocabulary(writer: gguf.GGUFWriter, size: int) -> None:
    """256 bytes as byte-level BPE writes them, then control tokens."""
    from tokenizers import pre_tokenizers

    tokens = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens += [f"<|{number}|>" for number in range(size - len(tokens))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * 256 + [3] * (size - 256))
    writer.add_token_merges([])
    writer.add_eos_token_id(257)


def _converted(name: str, tensor: torch.Tensor, architecture: str, config: Any) -> torch.Tensor:
    if architecture.startswith("gemma") and name.endswith("norm.weight"):
        return tensor + 1
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for projection, count in heads.items():
        if architecture in _INTERLEAVED and f".{projection}." in name:
            halves = tensor.reshape(count, 2, tensor.shape[0] // count // 2, *tensor.shape[1:])
            return halves.swapaxes(1, 2).reshape(tensor.shape)
    return tensor


def _gguf_name(name: str, architecture: str) -> str:
    top = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }
    if name in top:
        return top[name]
    _, _, layer, module = name.split(".", 3)
    module, _, kind = module.rpartition(".")
    sandwiched = architecture in {"gemma2", "gemma3", "olmo2"}
    modules = {**_MODULES, **(_SANDWICH if sandwiched else {})}
    return f"blk.{layer}.{modules[module]}.{kind}"


def _add_tensor(
    writer: gguf.GGUFWriter, name: str, values: np.ndarray, quantization: GGMLQuantizationType
) -> None:
    block = gguf.GGML_QUANT_SIZES[quantization][0]
    if values.ndim < 2 or values.shape[-1] % block or quantization is GGMLQuantizationType.F32:
        writer.add_tensor(name, np.ascontiguousarray(values, dtype=np.float32))
        return
    writer.add_tensor(name, gguf.quants.quantize(values, quantization), raw_dtype=quantization)
