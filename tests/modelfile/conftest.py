"""Tiny weight files: a llama of two layers as safetensors and as GGUF, and LoRAs for it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from safetensors.numpy import save_file

HIDDEN, KV, INNER, VOCAB = 32, 16, 64, 64
NUM_LAYERS = 2

SHAPES = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (KV, HIDDEN),
    "self_attn.v_proj": (KV, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (INNER, HIDDEN),
    "mlp.up_proj": (INNER, HIDDEN),
    "mlp.down_proj": (HIDDEN, INNER),
}
GGUF_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "num_hidden_layers": NUM_LAYERS,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": INNER,
    "vocab_size": VOCAB,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}
ADAPTER_CONFIG = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "bias": "none"}

Tensors = dict[str, np.ndarray[Any, np.dtype[Any]]]
MakeAdapter = Callable[..., dict[str, Path]]


def zeros(*shape: int) -> np.ndarray[Any, np.dtype[Any]]:
    return np.zeros(shape, np.float32)


def model_tensors() -> Tensors:
    tensors = {
        "model.embed_tokens.weight": zeros(VOCAB, HIDDEN),
        "model.norm.weight": zeros(HIDDEN),
    }
    for index in range(NUM_LAYERS):
        prefix = f"model.layers.{index}"
        tensors |= {f"{prefix}.{name}.weight": zeros(*shape) for name, shape in SHAPES.items()}
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{prefix}.{norm}.weight"] = zeros(HIDDEN)
    return tensors


def lora_tensors(module: str, a: tuple[int, ...], b: tuple[int, ...]) -> Tensors:
    prefix = f"base_model.model.{module}"
    return {f"{prefix}.lora_A.weight": zeros(*a), f"{prefix}.lora_B.weight": zeros(*b)}


Metadata = Mapping[str, str | int | list[str]]


def write_gguf(path: Path, metadata: Metadata, architecture: str = "llama") -> Path:
    """A file with the tiny llama's tensors under GGUF's names."""
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in metadata.items():
        if isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        else:
            writer.add_array(key, value)
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_file_type(0)
    writer.add_tensor("token_embd.weight", zeros(VOCAB, HIDDEN))
    writer.add_tensor("output_norm.weight", zeros(HIDDEN))
    for index in range(NUM_LAYERS):
        for name, shape in SHAPES.items():
            writer.add_tensor(f"blk.{index}.{GGUF_NAMES[name]}.weight", zeros(*shape))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_gguf_adapter(
    path: Path, tensors: Tensors, *, kind: str = "lora", alpha: float = 8.0
) -> Path:
    """A LoRA as llama.cpp's converter writes it, of one projection unless told otherwise."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", kind)
    writer.add_float32("adapter.lora.alpha", alpha)
    name = "blk.1.attn_k.weight"
    default = {f"{name}.lora_a": zeros(4, HIDDEN), f"{name}.lora_b": zeros(KV, 4)}
    for key, tensor in (tensors or default).items():
        writer.add_tensor(key, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def gguf_file(tmp_path: Path) -> Path:
    return write_gguf(tmp_path / "tiny.gguf", {})


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A directory as transformers saves it."""
    directory = tmp_path / "repository"
    directory.mkdir()
    save_file(model_tensors(), directory / "model.safetensors", {"format": "pt"})
    (directory / "config.json").write_text(json.dumps(CONFIG))
    (directory / "tokenizer.json").write_text("{}")
    return directory


@pytest.fixture
def make_adapter(tmp_path: Path) -> MakeAdapter:
    """Writes a peft adapter: `make_adapter(tensors, **changes_to_its_config)`."""

    def make(tensors: Tensors | None = None, **changes: object) -> dict[str, Path]:
        directory = tmp_path / "adapter"
        directory.mkdir(exist_ok=True)
        if tensors is None:
            module = "model.layers.1.self_attn.k_proj"
            tensors = lora_tensors(module, (4, HIDDEN), (KV, 4))
        config, weights = "adapter_config.json", "adapter_model.safetensors"
        (directory / config).write_text(json.dumps(ADAPTER_CONFIG | changes))
        save_file(tensors, directory / weights)
        return {name: directory / name for name in (config, weights)}

    return make
