"""A ModuleModel as the content of a GGUF file, for families that only llama.cpp has code for.

Names are those of the gguf package's own maps; what each family wants beside them (metadata, the
order of rows, experts in one tensor) stands in the table below, after llama.cpp's converter and
loaders. What a family's code there would compute otherwise is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import gguf
import torch
from torch import Tensor

from olla.engine.conversion.gguf_file import HEAD, Content, Output
from olla.engine.conversion.module_model import ModuleModel
from olla.engine.conversion.vocabulary import vocabulary_metadata
from olla.engine.weights.gguf import interleaved
from olla.errors import BadInput, FormatError

_EXPERT = re.compile(r"(?P<before>.+\.experts)\.(?P<number>\d+)\.(?P<after>.+)\.weight")

Change = Callable[[Tensor, Any], Tensor]
"""A tensor as transformers has it, and the config -> as llama.cpp wants it."""


@dataclass(frozen=True, slots=True)
class Family:
    """`keys`: metadata, and which settings of the config they are.

    `changes`: ends of GGUF names, and what becomes of those tensors. `fixed`: settings that
    llama.cpp's code takes for granted.
    """

    architecture: gguf.MODEL_ARCH
    keys: Mapping[str, str]
    changes: Mapping[str, Change] = field(default_factory=dict)
    fixed: Mapping[str, object] = field(default_factory=dict)


def _turned(values: Tensor, config: Any) -> Tensor:
    """GPT-2 has the inputs of a linear first."""
    return values.T


def _by_kind(values: Tensor, config: Any) -> Tensor:
    """GPT-NeoX has query, key and value side by side in each head; here they follow each other."""
    heads = config.num_attention_heads
    return values.reshape(heads, 3, -1, *values.shape[1:]).transpose(0, 1).reshape(values.shape)


def _queries(values: Tensor, config: Any) -> Tensor:
    return interleaved(values, config.num_attention_heads)


def _keys(values: Tensor, config: Any) -> Tensor:
    return interleaved(values, config.num_key_value_heads)


def _plus_one(values: Tensor, config: Any) -> Tensor:
    return values + 1.0


def _flat(values: Tensor, config: Any) -> Tensor:
    return values.flatten()


_COMMON = {
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "context_length": "max_position_embeddings",
    "attention.head_count": "num_attention_heads",
    "vocab_size": "vocab_size",
}
_GROUPED = {**_COMMON, "attention.head_count_kv": "num_key_value_heads"}
_RMS = {"attention.layer_norm_rms_epsilon": "rms_norm_eps"}
_EXPERTS = {"expert_used_count": "num_experts_per_tok"}
_QWEN = {
    **_GROUPED, **_RMS, **_EXPERTS,
    "expert_count": "num_experts",
    "expert_feed_forward_length": "moe_intermediate_size",
}  # fmt: skip
_EVERY_LAYER = {"decoder_sparse_step": 1, "mlp_only_layers": [], "use_sliding_window": False}

FAMILIES: Mapping[str, Family] = {
    "gpt_neox": Family(
        gguf.MODEL_ARCH.GPTNEOX,
        {**_COMMON, "attention.layer_norm_epsilon": "layer_norm_eps",
         "use_parallel_residual": "use_parallel_residual"},
        {"attn_qkv.weight": _by_kind, "attn_qkv.bias": _by_kind},
        {"hidden_act": "gelu"},
    ),
    "gpt2": Family(
        gguf.MODEL_ARCH.GPT2,
        {**_COMMON, "attention.layer_norm_epsilon": "layer_norm_epsilon",
         "feed_forward_length": "n_inner"},
        {f"{name}.weight": _turned for name in ("attn_qkv", "attn_output", "ffn_up", "ffn_down")},
        {"activation_function": "gelu_new", "scale_attn_by_inverse_layer_idx": False},
    ),
    "mixtral": Family(
        gguf.MODEL_ARCH.LLAMA,
        {**_GROUPED, **_RMS, **_EXPERTS, "expert_count": "num_local_experts"},
        {"attn_q.weight": _queries, "attn_k.weight": _keys},
        {"sliding_window": None, "hidden_act": "silu"},
    ),
    "olmoe": Family(
        gguf.MODEL_ARCH.OLMOE,
        {**_GROUPED, **_RMS, **_EXPERTS, "expert_count": "num_experts"},
        fixed={"norm_topk_prob": False, "clip_qkv": None, "hidden_act": "silu"},
    ),
    "qwen2_moe": Family(
        gguf.MODEL_ARCH.QWEN2MOE,
        {**_QWEN, "expert_shared_feed_forward_length": "shared_expert_intermediate_size"},
        {"ffn_gate_inp_shexp.weight": _flat},
        {**_EVERY_LAYER, "norm_topk_prob": False},
    ),
    "qwen3_moe": Family(
        gguf.MODEL_ARCH.QWEN3MOE,
        {**_QWEN, "attention.key_length": "head_dim", "attention.value_length": "head_dim"},
        fixed={**_EVERY_LAYER, "norm_topk_prob": True},
    ),
    "gemma": Family(
        gguf.MODEL_ARCH.GEMMA,
        {**_GROUPED, **_RMS, "attention.key_length": "head_dim",
         "attention.value_length": "head_dim"},
        {"norm.weight": _plus_one},
    ),
    "phi": Family(
        gguf.MODEL_ARCH.PHI2,
        {**_GROUPED, "attention.layer_norm_epsilon": "layer_norm_eps"},
        fixed={"hidden_act": "gelu_new", "qk_layernorm": False},
    ),
    "starcoder2": Family(
        gguf.MODEL_ARCH.STARCODER2,
        {**_GROUPED, "attention.layer_norm_epsilon": "norm_epsilon"},
        fixed={"hidden_act": "gelu_pytorch_tanh"},
    ),
}  # fmt: skip


def gguf_content(model: ModuleModel, chat_template: str) -> Content:
    """
    Args:
        chat_template: kept in the file, for programs that read it there.

    Raises:
        BadInput: a family that olla does not write as GGUF, or a setting that llama.cpp lacks.
        FormatError: a part of the model has no form in GGUF.
    """
    config = model.config
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise BadInput(
            f'unsupported architecture "{config.model_type}": olla writes GGUF files of '
            f"{', '.join(sorted(FAMILIES))} and of what its own decoder computes; use --format hf"
        )
    for setting, expected in family.fixed.items():
        if getattr(config, setting, expected) != expected:
            raise BadInput(
                f"{setting} {getattr(config, setting)} of {config.model_type} has no form in GGUF "
                "files; use --format hf"
            )
    architecture = gguf.MODEL_ARCH_NAMES[family.architecture]
    metadata = {f"{architecture}.{key}": value for key, value in _settings(config, family)}
    tokenizer = model.checkpoint.tokenizer()
    special = model.checkpoint.special_tokens(tokenizer)
    metadata |= vocabulary_metadata(tokenizer, special, config.vocab_size)
    if chat_template:
        metadata["tokenizer.chat_template"] = chat_template
    metadata["general.name"] = str(model.checkpoint.config.get("_name_or_path") or architecture)
    tensors = list(_tensors(model, family))
    return Content(architecture, config.num_hidden_layers, metadata, tensors)


def _settings(config: Any, family: Family) -> Iterator[tuple[str, Any]]:
    for key, setting in family.keys.items():
        value = getattr(config, setting, None)
        if value is None and key == "feed_forward_length":  # GPT-2 leaves it out
            value = 4 * config.hidden_size
        yield key, value
    rope = getattr(config, "rope_parameters", None)
    if not rope:
        return
    if rope.get("rope_type", "default") != "default":
        raise BadInput(f"rotary scaling {rope['rope_type']} of {config.model_type} is not "
                       "written to GGUF files; use --format hf")  # fmt: skip
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    yield "rope.freq_base", float(rope["rope_theta"])
    yield "rope.dimension_count", int(head_dim * rope.get("partial_rotary_factor", 1.0))


def _tensors(model: ModuleModel, family: Family) -> Iterator[Output]:
    known = gguf.TensorNameMap(family.architecture, model.config.num_hidden_layers)
    experts: dict[str, dict[int, str]] = {}
    for name in model.names:
        match = _EXPERT.fullmatch(name)
        if match:
            merged = f"{match['before']}.{match['after']}.weight"
            experts.setdefault(merged, {})[int(match["number"])] = name
            continue
        found = _gguf_name(known, name, family)
        if found == HEAD and model.ties_head:
            continue
        yield _output(model, family, found, (name,))
    for merged, numbered in experts.items():
        names = tuple(numbered[number] for number in sorted(numbered))
        yield _output(model, family, _gguf_name(known, merged, family), names)


def _gguf_name(known: gguf.TensorNameMap, name: str, family: Family) -> str:
    found = known.get_name(name, try_suffixes=(".weight", ".bias"))
    if found is None:
        architecture = gguf.MODEL_ARCH_NAMES[family.architecture]
        raise FormatError(f"{name} has no name in GGUF files of {architecture}; use --format hf")
    return str(found)


def _output(model: ModuleModel, family: Family, name: str, sources: tuple[str, ...]) -> Output:
    change = next((change for end, change in family.changes.items() if name.endswith(end)), None)
    read = partial(_read, model, sources, change)
    shape = model.shape(sources[0])
    if change is not None:  # of no values, since only its shape is wanted
        shape = tuple(change(torch.empty(shape, device="meta"), model.config).shape)
    return Output(name, (len(sources), *shape) if len(sources) > 1 else shape, read)


def _read(model: ModuleModel, sources: tuple[str, ...], change: Change | None) -> Tensor:
    values = [model.read(source) for source in sources]
    if change is not None:
        values = [change(part, model.config) for part in values]
    return torch.stack(values) if len(values) > 1 else values[0]
