"""Adapters merged into transformers' own modules, of whatever architecture: what peft computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from olla.engine.conversion.hf_model import Parameters, write_repository
from olla.engine.conversion.module_model import ModuleModel
from olla.engine.conversion.source import FloatModel
from olla.errors import BadInput, FormatError
from olla.runner.protocol import Adapter, Files
from tests.engine.test_adapters import active_together, save_adapter
from tests.tiny_model import files_of, save_tiny_model
from tests.tiny_vision import save_tiny_vision_model

TOKENS = torch.tensor([[3, 80, 121, 9, 200, 46, 3]])
GPT2: dict[str, Any] = {"n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 64}
EXPERTS: dict[str, Any] = {"num_local_experts": 4, "num_experts_per_tok": 2}
TIED: dict[str, Any] = {"tie_word_embeddings": True}
KINDS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("gpt_neox", {}, {"target_modules": ["query_key_value", "dense_h_to_4h", "embed_in"]}),
    ("gpt_neox", {}, {"target_modules": ["dense"], "modules_to_save": ["embed_out"]}),
    ("gpt2", GPT2, {"target_modules": ["c_attn", "c_fc", "c_proj"], "fan_in_fan_out": True}),
    ("gpt2", GPT2, {"target_modules": ["c_attn"], "fan_in_fan_out": True, "use_dora": True,
                    "bias": "lora_only"}),
    ("gpt2", GPT2, {"target_modules": ["wte", "c_fc"], "fan_in_fan_out": True}),
    ("mixtral", EXPERTS, {"target_modules": ["q_proj", "o_proj"]}),
    ("stablelm", TIED, {"target_modules": ["q_proj", "embed_tokens"]}),
    ("stablelm", TIED, {"target_modules": ["v_proj"], "trainable_token_indices": [3, 80]}),
    ("llama", TIED, {"target_modules": ["q_proj", "embed_tokens"]}),
    ("llama", TIED, {"target_modules": ["v_proj"], "trainable_token_indices": [3, 80]}),
]  # fmt: skip


def ignore(done: int, total: int) -> None:
    assert done <= total


def written(model: Parameters, files: Files, folder: Path) -> Any:
    """What transformers loads of it."""
    folder.mkdir()
    write_repository(model, folder, files, ignore)
    return transformers.AutoModelForCausalLM.from_pretrained(folder)


@torch.inference_mode()
def logits_of(model: Any) -> torch.Tensor:
    logits: torch.Tensor = model(TOKENS).logits
    return logits.float()


@pytest.mark.parametrize(("family", "settings", "lora"), KINDS)
def test_a_merged_repository_is_what_peft_computes(
    tmp_path: Path, family: str, settings: dict[str, Any], lora: dict[str, Any]
) -> None:
    files = save_tiny_model(tmp_path, family, **settings)
    reference = save_adapter(tmp_path, tmp_path / "adapter", seed=1, **lora)
    kind = FloatModel if family == "llama" else ModuleModel

    model = kind(files, [Adapter(files_of(tmp_path / "adapter"))])
    merged = written(model, files, tmp_path / "out")

    expected = logits_of(reference)
    assert (logits_of(merged) - expected).abs().max() <= 1e-3 * expected.abs().max()
    assert set(load_file(tmp_path / "out" / "model.safetensors")) >= set(
        load_file(tmp_path / "model.safetensors")
    )
    assert merged.dtype == torch.float32


def test_scales_and_several_adapters_add_up(tmp_path: Path) -> None:
    files = save_tiny_model(tmp_path, "gpt_neox")
    folders = (tmp_path / "one", tmp_path / "two")
    for seed, folder in enumerate(folders):
        save_adapter(tmp_path, folder, seed=seed, target_modules=["query_key_value"])
    name = "gpt_neox.layers.0.attention.query_key_value.weight"

    def changed(*adapters: Adapter) -> torch.Tensor:
        return ModuleModel(files, adapters).read(name) - ModuleModel(files).read(name)

    one, two = (Adapter(files_of(folder)) for folder in folders)
    both = changed(Adapter(one.files, 0.5), two)

    assert torch.allclose(both, 0.5 * changed(one) + changed(two), atol=1e-5)
    assert not torch.allclose(both, changed(two), atol=1e-2)


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama"])
def test_a_dora_after_others_scales_what_they_add(tmp_path: Path, family: str) -> None:
    files = save_tiny_model(tmp_path, family, **(GPT2 if family == "gpt2" else {}))
    targets = {"gpt2": "c_attn", "gpt_neox": "query_key_value", "llama": "o_proj"}[family]
    folders = [tmp_path / "one", tmp_path / "two", tmp_path / "three"]
    for seed, folder in enumerate(folders):
        save_adapter(tmp_path, folder, seed=seed, target_modules=[targets], use_dora=seed > 0)
    reference = active_together(tmp_path, folders)
    kind = FloatModel if family == "llama" else ModuleModel

    model = kind(files, [Adapter(files_of(folder)) for folder in folders])
    merged = written(model, files, tmp_path / "out")

    expected = logits_of(reference)
    assert (logits_of(merged) - expected).abs().max() <= 1e-3 * expected.abs().max()


def test_a_dora_after_a_bias_of_lora_s_is_not_merged(tmp_path: Path) -> None:
    files = save_tiny_model(tmp_path, "qwen2")
    save_adapter(tmp_path, tmp_path / "one", seed=1, target_modules=["q_proj"], lora_bias=True)
    save_adapter(tmp_path, tmp_path / "two", seed=2, target_modules=["q_proj"], use_dora=True)
    one, two = (Adapter(files_of(tmp_path / name)) for name in ("one", "two"))
    name = "model.layers.0.self_attn.q_proj.weight"

    with pytest.raises(FormatError, match="name the DoRA first"):
        FloatModel(files, [one, two]).read(name)
    assert FloatModel(files, [two, one]).read(name).isfinite().all()


def test_an_expert_by_the_name_it_has_in_the_files_is_merged(tmp_path: Path) -> None:
    """As older versions of transformers had it, each in a module of its own."""
    files = save_tiny_model(tmp_path, "mixtral", **EXPERTS)
    save_adapter(tmp_path, tmp_path / "adapter", seed=1, target_modules=["q_proj"])
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    expert = "model.layers.1.block_sparse_moe.experts.2.w1"
    a, b = torch.randn(4, 32), torch.randn(48, 4)
    pair = {f"base_model.model.{expert}.lora_{side}.weight": t for side, t in (("A", a), ("B", b))}
    save_file(pair, path)

    model = ModuleModel(files, [Adapter(files_of(tmp_path / "adapter"))])

    before = load_file(tmp_path / "model.safetensors")
    changed = [name for name in model.names if not torch.equal(model.read(name), before[name])]
    assert changed == [f"{expert}.weight"]
    expected = before[changed[0]] + 2 * b @ a  # alpha 8 over rank 4
    assert torch.allclose(model.read(changed[0]), expected, atol=1e-4)


@pytest.mark.parametrize("family", ["gemma3", "qwen3_vl_moe"])
def test_a_model_that_sees_keeps_what_it_sees_with(tmp_path: Path, family: str) -> None:
    files = save_tiny_vision_model(tmp_path, family)
    folder = tmp_path / "adapter"
    folder.mkdir()
    module = "model.language_model.layers.0.self_attn.q_proj"
    before = load_file(tmp_path / "model.safetensors")
    [changed] = [
        name
        for name in before
        if name.endswith("language_model.layers.0.self_attn.q_proj.weight")
        or name.endswith("language_model.model.layers.0.self_attn.q_proj.weight")
    ]
    rows, columns = before[changed].shape
    pair = {"A": torch.randn(4, columns), "B": torch.randn(rows, 4)}
    save_file({f"base_model.model.{module}.lora_{side}.weight": t for side, t in pair.items()},
              folder / "adapter_model.safetensors")  # fmt: skip
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4, "lora_alpha": 4}')

    model = ModuleModel(files, [Adapter(files_of(folder))])

    assert set(model.names) == set(before)
    others = [name for name in model.names if torch.equal(model.read(name), before[name])]
    assert set(others) == set(before) - {changed}
    expected = before[changed] + pair["B"] @ pair["A"]
    assert torch.allclose(model.read(changed), expected, atol=1e-4)


def test_what_cannot_be_merged_is_named(tmp_path: Path) -> None:
    files = save_tiny_model(tmp_path, "gpt_neox")
    save_adapter(tmp_path, tmp_path / "adapter", seed=1, target_modules=["query_key_value"])
    other = save_tiny_model(tmp_path, "stablelm")

    with pytest.raises(FormatError, match=r"no parameter gpt_neox\.layers\.0\.attention\.query"):
        ModuleModel(other, [Adapter(files_of(tmp_path / "adapter"))])
    quantized, packed = tmp_path / "quantized.json", '{"quant_method": "bitsandbytes"}'
    config = (tmp_path / "config.json").read_text()
    quantized.write_text(config.replace("{", f'{{"quantization_config": {packed},', 1))
    with pytest.raises(BadInput, match="the weights are quantized already"):
        ModuleModel({**files, "config.json": str(quantized)})


def test_a_bias_that_an_architecture_has_no_place_for_is_refused(tmp_path: Path) -> None:
    files = save_tiny_model(tmp_path)
    save_adapter(tmp_path, tmp_path / "adapter", seed=1, lora_bias=True)

    with pytest.raises(BadInput, match=r"would give the model model\.layers\.0.*bias, for which"):
        written(FloatModel(files, [Adapter(files_of(tmp_path / "adapter"))]), files,
                tmp_path / "out")  # fmt: skip
