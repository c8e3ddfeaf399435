"""Architectures beyond the lean decoder run through transformers' own modules."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers

from olla.engine.engine import Engine
from olla.engine.loading import load_model
from olla.engine.models.hf import HfModel
from olla.engine.parts import LowRank
from olla.errors import FormatError, OutOfMemory
from tests.engine.test_adapters import generate, likeliest
from tests.engine.test_families import forward
from tests.tiny_model import files_of, save_tiny_model

# Parallel blocks, learned positions, a mixture of experts, partial rotation.
ARCHITECTURES: list[tuple[str, dict[str, Any]]] = [
    ("gpt_neox", {}),
    ("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512}),
    ("flex_olmo", {"num_experts": 4, "num_experts_per_tok": 2}),
    ("stablelm", {}),
]


@pytest.mark.parametrize(("architecture", "settings"), ARCHITECTURES)
def test_greedy_replies_are_those_of_transformers(
    tmp_path: Path, architecture: str, settings: dict[str, Any]
) -> None:
    files = save_tiny_model(tmp_path, architecture, **settings)
    model = load_model(files, "float32", "cpu", 0, lambda done, total: None)
    reference = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)

    first, second = generate(Engine(model), [None, None])

    start = len(model.tokenizer.encode("the same prompt").ids)
    assert isinstance(model.network, HfModel)
    assert first == second
    assert first[start:] == likeliest(reference.eval(), first)[start - 1 : -1]


def test_an_adapter_over_another_architecture_answers_as_in_peft(tmp_path: Path) -> None:
    base, folder = tmp_path / "base", tmp_path / "adapter"
    base.mkdir()
    files = save_tiny_model(base, "gpt_neox")
    torch.manual_seed(1)
    config = peft.LoraConfig(
        r=4, target_modules=["query_key_value", "dense"], init_lora_weights=False
    )
    reference = peft.get_peft_model(
        transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config
    ).eval()
    reference.save_pretrained(folder)
    model = load_model(files, "float32", "cpu", 0, lambda done, total: None)

    plain, adapted = generate(Engine(model), [None, folder])

    start = len(model.tokenizer.encode("the same prompt").ids)
    assert adapted[start:] == likeliest(reference, adapted)[start - 1 : -1]
    assert plain != adapted


def test_adapters_of_one_request_add_up(tmp_path: Path) -> None:
    files = save_tiny_model(tmp_path, "gpt_neox")
    network = load_model(files, "float32", "cpu", 0, lambda done, total: None).network
    a, b = torch.randn(4, 32), torch.randn(32, 4)
    part = LowRank("gpt_neox.layers.0.attention.dense", a, b)
    network.add_adapter(1, [part, part])
    network.add_adapter(2, [replace(part, share=2.0)])

    once_doubled, twice = (forward(network, torch.arange(9), adapter=n) for n in (2, 1))

    assert (once_doubled - twice).abs().max() <= 1e-3


def test_an_adapter_lies_over_a_layer_that_is_given_flat_rows(tmp_path: Path) -> None:
    """A shared expert may see (num_tokens, hidden_size), with no batch before it."""
    files = save_tiny_model(
        tmp_path, "dots1", n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=16,
        n_shared_experts=1, first_k_dense_replace=0, n_group=1, topk_group=1,
    )  # fmt: skip
    network = load_model(files, "float32", "cpu", 0, lambda done, total: None).network
    gate = "model.layers.0.mlp.shared_experts.gate_proj"
    network.add_adapter(1, [LowRank(gate, torch.randn(4, 32), torch.randn(16, 4))])

    plain, adapted = (forward(network, torch.arange(9), adapter=n) for n in (0, 1))

    assert (plain - adapted).abs().amax(dim=-1).min() > 1e-3


@pytest.mark.parametrize(
    ("module", "shape", "words"),
    [
        ("gpt_neox.layers.9.attention.dense", (4, 32), "no module"),
        ("gpt_neox.layers.0.attention", (4, 32), "of type GPTNeoXAttention"),
        ("gpt_neox.layers.0.attention.dense", (4, 31), "the base is"),
        ("model.layers.0.mlp.experts.0", (4, 32), "lays adapters over experts .* only"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(
    tmp_path: Path, module: str, shape: tuple[int, int], words: str
) -> None:
    files = save_tiny_model(tmp_path, "gpt_neox")
    model = load_model(files, "float32", "cpu", 0, lambda done, total: None)

    with pytest.raises(FormatError, match=words):
        model.network.add_adapter(1, [LowRank(module, torch.zeros(shape), torch.zeros(32, 4))])


def test_what_is_no_language_model_is_refused_with_the_reason(tmp_path: Path) -> None:
    save_tiny_model(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')

    with pytest.raises(FormatError, match="transformers cannot load this model: "):
        load_model(files_of(tmp_path), "float32", "cpu", 0, lambda done, total: None)


# Attention sinks, encoders, positions as biases, states beside attention, its own cache.
REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("gpt_oss", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    ("bert", {}),
    ("big_bird", {}),
    ("bloom", {}),
    ("gptj", {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4}),
    ("mpt", {"n_layers": 2, "n_heads": 4, "d_model": 32}),
    ("mamba", {"num_hidden_layers": 2}),
    ("jamba", {"attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False}),
]


@pytest.mark.parametrize(("architecture", "settings"), REFUSED)
def test_what_our_attention_would_compute_wrongly_is_refused(
    tmp_path: Path, architecture: str, settings: dict[str, Any]
) -> None:
    files = save_tiny_model(tmp_path, architecture, **settings)

    with pytest.raises(FormatError, match="so olla cannot run it yet"):
        load_model(files, "float32", "cpu", 0, lambda done, total: None)


def test_a_window_that_only_a_mask_knows_bounds_the_context(tmp_path: Path) -> None:
    """Llama 4 attends in chunks; within the first one that is attention of everything."""
    files = save_tiny_model(
        tmp_path,
        "llama4_text",
        attention_chunk_size=16,
        num_local_experts=2,
        intermediate_size_mlp=48,
    )

    model = load_model(files, "float32", "cpu", 0, lambda done, total: None)

    assert model.network.config.context_length == 16


def test_too_little_memory_is_not_taken_for_an_unknown_architecture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = save_tiny_model(tmp_path, "gpt_neox")

    def refuse(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    for where in (transformers.AutoModelForCausalLM, HfModel):
        with monkeypatch.context() as patch:
            patch.setattr(where, "from_pretrained" if where is not HfModel else "forward", refuse)
            with pytest.raises(OutOfMemory, match="its weights alone are"):
                load_model(files, "float32", "cpu", 0, lambda done, total: None)


def test_a_file_name_that_leads_out_of_the_model_is_refused(tmp_path: Path) -> None:
    files = {name: Path(path) for name, path in save_tiny_model(tmp_path, "gpt_neox").items()}
    files["../../escape"] = files["config.json"]

    with pytest.raises(FormatError, match="escape"):
        HfModel(files, torch.float32, torch.device("cpu"), lambda done, total: None)


def test_the_repositorys_own_code_is_never_run(tmp_path: Path) -> None:
    files = save_tiny_model(tmp_path, "gpt_neox")
    trap, sprung = tmp_path / "trap.py", tmp_path / "sprung"
    trap.write_text(f"open({str(sprung)!r}, 'w')")
    (tmp_path / "config.json").write_text(
        '{"model_type": "homemade", "auto_map": {"AutoConfig": "trap.Config",'
        ' "AutoModelForCausalLM": "trap.Model"}}'
    )

    with pytest.raises(FormatError, match="transformers cannot load this model"):
        load_model({**files, "trap.py": str(trap)}, "float32", "cpu", 0, lambda done, total: None)
    assert not sprung.exists()
