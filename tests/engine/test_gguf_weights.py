"""GGUF files give the models that were put into them, in every precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers

from olla.engine.kv_cache import KVCache
from olla.engine.loading import load_model
from olla.engine.models.batch import Batch, CausalModel, Span
from olla.engine.weights.gguf import GgufCheckpoint
from olla.engine.weights.gguf_config import config_from_metadata
from olla.errors import FormatError
from tests.engine.test_families import EXPERTS, forward
from tests.gguf_model import write_gguf
from tests.gguf_split import split_gguf
from tests.tiny_model import SMALL, VOCAB_SIZE

FAMILIES: list[tuple[str, str, dict[str, Any]]] = [
    ("llama", "llama", {}),
    ("llama", "llama", {"tie_word_embeddings": True, "attention_bias": True}),
    ("qwen2", "qwen2", {}),
    ("qwen3", "qwen3", {}),
    ("phi3", "phi3", {"sliding_window": 16, "original_max_position_embeddings": 512}),
    ("granite", "granite", {"attention_multiplier": 0.2, "embedding_multiplier": 3.0,
                            "residual_multiplier": 0.5, "logits_scaling": 2.0}),
    ("smollm3", "smollm3", {"num_hidden_layers": 5}),
    ("olmo2", "olmo2", {}),
    ("gemma2", "gemma2", {"sliding_window": 16, "query_pre_attn_scalar": 8}),
    ("gemma3", "gemma3_text", {"sliding_window": 16, "num_hidden_layers": 7,
                               "query_pre_attn_scalar": 8}),
    ("llama", "mixtral", {"num_local_experts": 5}),
    ("olmoe", "olmoe", EXPERTS),
    ("granitemoe", "granitemoe", {"num_local_experts": 5, "attention_multiplier": 0.2}),
    ("qwen2moe", "qwen2_moe", {**EXPERTS, "shared_expert_intermediate_size": 40}),
    ("qwen3moe", "qwen3_moe", {**EXPERTS, "norm_topk_prob": True}),
]  # fmt: skip

WRITABLE = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"]
K_QUANTS = ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]


def tiny(model_type: str, **settings: Any) -> Any:
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(model_type, **{**SMALL, **settings})
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.3)
    return model.eval()


def load(path: Path) -> CausalModel:
    files = {"model.gguf": str(path)}
    return load_model(files, "float32", "cpu", 0, lambda done, total: None).network


def read_parameter(path: Path, name: str) -> tuple[torch.Tensor, int]:
    """A parameter in float32, and its bytes in the file."""
    checkpoint = GgufCheckpoint(path)
    out = torch.empty(checkpoint.shape(name) or ())
    return out, checkpoint.read(name, out)


@pytest.mark.parametrize(("architecture", "model_type", "settings"), FAMILIES)
def test_logits_are_those_of_the_model_that_was_converted(
    tmp_path: Path, architecture: str, model_type: str, settings: dict[str, Any]
) -> None:
    model = tiny(model_type, **settings)
    decoder = load(write_gguf(tmp_path / "model.gguf", model, architecture))
    tokens = torch.randint(0, 256, (40,))

    logits = forward(decoder, tokens)

    with torch.inference_mode():
        expected = model(tokens[None]).logits[0]
    assert (logits - expected).abs().max() <= 1e-3


@pytest.mark.parametrize("name", WRITABLE)
def test_a_precision_is_read_as_the_format_says(tmp_path: Path, name: str) -> None:
    model = tiny("llama", hidden_size=64, intermediate_size=64)
    quantization = gguf.GGMLQuantizationType[name]
    path = write_gguf(tmp_path / "model.gguf", model, "llama", quantization)
    original = model.state_dict()["model.layers.1.self_attn.q_proj.weight"].float()

    read, _ = read_parameter(path, "model.layers.1.self_attn.q_proj.weight")

    expected = gguf.quants.dequantize(
        gguf.quants.quantize(original.numpy(), quantization), quantization
    )
    np.testing.assert_allclose(read.numpy(), expected, atol=1e-6)
    assert (read - original).abs().max() <= original.abs().max() / 6


@pytest.mark.parametrize("name", K_QUANTS)
def test_k_quants_are_read_row_by_row(tmp_path: Path, name: str) -> None:
    quantization = gguf.GGMLQuantizationType[name]
    block, size = gguf.GGML_QUANT_SIZES[quantization]
    rows, blocks = 8, 2
    raw = np.random.default_rng(0).integers(0, 255, (rows, blocks * size), dtype=np.uint8)
    # Small finite scales, wherever the type keeps its two half floats.
    raw = np.where(np.isfinite(gguf.quants.dequantize(raw, quantization)).all(1)[:, None], raw, 1)
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_tensor("token_embd.weight", np.zeros((4, 8), dtype=np.float32))
    writer.add_tensor("blk.0.ffn_up.weight", raw, raw_dtype=quantization)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    tensor, num_bytes = read_parameter(path, "model.layers.0.mlp.up_proj.weight")

    assert tensor.shape == (rows, blocks * block)
    assert num_bytes == raw.size
    for row in range(rows):
        expected = gguf.quants.dequantize(raw[row : row + 1], quantization)[0]
        np.testing.assert_array_equal(tensor[row].numpy(), expected)


def test_a_tensor_larger_than_a_chunk_is_read_whole(tmp_path: Path) -> None:
    model = tiny("llama", hidden_size=128, intermediate_size=20_000)
    path = write_gguf(tmp_path / "model.gguf", model, "llama", gguf.GGMLQuantizationType.Q8_0)

    read, _ = read_parameter(path, "model.layers.1.mlp.up_proj.weight")

    original = model.state_dict()["model.layers.1.mlp.up_proj.weight"]
    assert (read - original).abs().max() <= original.abs().max() / 100


def test_integer_weights_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("token_embd.weight", np.zeros((4, 8), dtype=np.int32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    with pytest.raises(FormatError, match="cannot read I32 weights"):
        read_parameter(path, "model.embed_tokens.weight")


def test_llama3_frequencies_in_the_file_scale_the_rotation(tmp_path: Path) -> None:
    scaling = {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    model = tiny("llama", rope_parameters=scaling)
    plain = 1.0 / 10000.0 ** (torch.arange(0, 8, 2) / 8)
    factors = (plain / model.model.rotary_emb.inv_freq).numpy()
    path = write_gguf(
        tmp_path / "model.gguf",
        model,
        "llama",
        add_metadata=lambda writer: writer.add_tensor("rope_freqs.weight", factors),
    )
    decoder = load(path)
    tokens = torch.randint(0, 256, (40,))

    logits = forward(decoder, tokens)

    with torch.inference_mode():
        assert (logits - model(tokens[None]).logits[0]).abs().max() <= 1e-3


@pytest.mark.parametrize(
    ("architecture", "words"),
    [("bert", 'unsupported architecture "bert"'), ("mamba", "olla runs .*llama.* from GGUF")],
)
def test_an_architecture_that_olla_does_not_run_is_named(
    tmp_path: Path, architecture: str, words: str
) -> None:
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_tensor("token_embd.weight", np.zeros((VOCAB_SIZE, 32), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    with pytest.raises(FormatError, match=words):
        GgufCheckpoint(path)


def test_long_rope_is_refused_by_name(tmp_path: Path) -> None:
    model = tiny("phi3", original_max_position_embeddings=512)
    factors = np.ones(4, dtype=np.float32)
    path = write_gguf(
        tmp_path / "model.gguf",
        model,
        "phi3",
        add_metadata=lambda writer: writer.add_tensor("rope_factors_long.weight", factors),
    )

    with pytest.raises(FormatError, match="longrope"):
        GgufCheckpoint(path)


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    model = tiny("llama", num_hidden_layers=1)
    path = write_gguf(
        tmp_path / "model.gguf",
        model,
        "llama",
        add_metadata=lambda writer: writer.add_uint32("llama.block_count", 2),
    )

    with pytest.raises(FormatError, match=r"the weights lack model\.layers\.1\."):
        load(path)


def test_a_part_of_a_split_file_is_named_as_such(tmp_path: Path) -> None:
    whole = write_gguf(tmp_path / "model.gguf", tiny("llama"), "llama")
    first, *_ = split_gguf(whole, tmp_path / "model", 3)

    with pytest.raises(FormatError, match="one part of a split GGUF file"):
        load(first)


def test_rotary_factors_are_as_exact_in_bfloat16_as_in_float32(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    factors = np.array([1.237, 2.371, 3.177, 4.731], dtype=np.float32)
    write_gguf(
        path,
        tiny("llama", num_hidden_layers=1),
        "llama",
        add_metadata=lambda writer: writer.add_tensor("rope_freqs.weight", factors),
    )
    files, tokens = {"model.gguf": str(path)}, torch.arange(8)

    exact, rounded = (
        load_model(files, dtype, "cpu", 0, lambda done, total: None).network.forward(
            Batch(
                tokens=tokens,
                positions=tokens * 3000,
                slots=tokens,
                spans=[Span(0, 8, slice(0, 8))],
                logit_rows=tokens,
                cache=KVCache(8),
            )
        )
        for dtype in ("float32", "bfloat16")
    )

    assert (exact - rounded).norm() < 0.03 * exact.norm()


@pytest.mark.parametrize(
    "key", ["embedding_length", "attention.head_count", "rope.dimension_count"]
)
def test_metadata_that_should_be_a_number_is_refused(key: str) -> None:
    metadata = {
        "general.architecture": "gemma2",
        "gemma2.embedding_length": 32,
        "gemma2.attention.head_count": 4,
        f"gemma2.{key}": "x",
    }

    with pytest.raises(FormatError, match="must be a number, not 'x'"):
        config_from_metadata(metadata, vocab_size=300)
