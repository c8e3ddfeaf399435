"""What is written is the same model: as GGUF, as transformers has it, and with adapters merged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from olla.engine.conversion.gguf_file import write_content
from olla.engine.conversion.gguf_model import gguf_content
from olla.engine.conversion.hf_model import adapter_configs, write_gguf_as_repository
from olla.engine.conversion.recipes import recipe_for
from olla.engine.conversion.source import FloatModel
from olla.engine.loading import load_model
from olla.errors import BadInput, FormatError
from olla.runner.protocol import Adapter
from tests.engine.conversion.conftest import MakeModel, files_at
from tests.engine.test_adapters import save_adapter
from tests.engine.test_families import forward
from tests.tiny_model import files_of, save_tiny_model

TOKENS = torch.tensor([3, 80, 121, 9, 200, 46, 3])
FAMILIES: list[tuple[str, dict[str, Any]]] = [
    ("llama", {}),
    ("llama", {"tie_word_embeddings": True, "rope_parameters": {
        "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 64}}),
    ("qwen2", {}),
    ("qwen3", {}),
    ("gemma2", {"query_pre_attn_scalar": 8, "sliding_window": 4}),
    ("olmo2", {}),
    ("granite", {"embedding_multiplier": 2.0, "logits_scaling": 3.0, "attention_multiplier": 0.4}),
]  # fmt: skip


def ignore(done: int, total: int) -> None:
    assert done <= total


def logits_of(path: Path) -> torch.Tensor:
    model = load_model(files_at(path), "float32", "cpu", 0, lambda done, total: None)
    return forward(model.network, TOKENS)


def export_gguf(folder: Path, kind: str, adapters: list[Adapter] | None = None) -> Path:
    path = folder.with_suffix(".gguf")
    content = gguf_content(FloatModel(files_of(folder), adapters or ()), "")
    write_content(content, recipe_for(kind), path, ignore)
    return path


@pytest.mark.parametrize(("family", "settings"), FAMILIES)
def test_a_repository_as_gguf_gives_the_same_logits(
    make_model: MakeModel, family: str, settings: dict[str, Any]
) -> None:
    folder = make_model(family, **settings)

    made = logits_of(export_gguf(folder, "f32"))

    expected = logits_of(folder)
    assert (made - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_a_gguf_file_as_a_repository_gives_the_same_logits(
    make_model: MakeModel, tmp_path: Path
) -> None:
    gguf = export_gguf(make_model("llama", tie_word_embeddings=True), "bf16")
    files = files_at(gguf)
    (tmp_path / "hf").mkdir()

    write_gguf_as_repository(FloatModel(files), tmp_path / "hf", "{{ messages }}", ignore)
    assert len({path.stat().st_mode for path in (tmp_path / "hf").iterdir()}) == 1

    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    with torch.inference_mode():
        logits = loaded(TOKENS[None]).logits[0]
    assert (logits - logits_of(gguf)).abs().max() <= 1e-2 * logits.abs().max()
    assert tokenizer.chat_template == "{{ messages }}"
    assert tokenizer.encode("abc") == [ord(c) - ord("!") for c in "abc"]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_dora": True, "modules_to_save": ["norm"]},
        {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
        {"trainable_token_indices": [3, 80]},
    ],
)
def test_a_merged_model_is_what_peft_computes(
    make_model: MakeModel, tmp_path: Path, settings: dict[str, Any]
) -> None:
    folder = make_model("llama")
    reference = save_adapter(folder, tmp_path / "adapter", seed=1, **settings)

    merged = export_gguf(folder, "f32", [Adapter(files_of(tmp_path / "adapter"))])

    with torch.inference_mode():
        expected = reference(TOKENS[None]).logits[0]
    assert (logits_of(merged) - expected).abs().max() <= 1e-3 * expected.abs().max()


def test_an_adapter_beside_its_base_names_it(tmp_path: Path) -> None:
    save_tiny_model(tmp_path)
    save_adapter(tmp_path, tmp_path / "adapter", seed=1)

    adapter = Adapter(files_of(tmp_path / "adapter"))

    (alone,), (first, _) = (adapter_configs([adapter] * count, "base") for count in (1, 2))

    assert alone["base_model_name_or_path"] == "base"
    assert first["base_model_name_or_path"] == "../base"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"normalizer": {"type": "Lowercase"}}, "splits text in a way that GGUF has no name for"),
        ({"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}},
         "tokenizers of type WordLevel cannot be written to GGUF"),
    ],
)  # fmt: skip
def test_a_tokenizer_that_gguf_has_no_form_for_is_refused(
    make_model: MakeModel, change: dict[str, Any], text: str
) -> None:
    folder = make_model("llama")
    path = folder / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))

    with pytest.raises(FormatError, match=text):
        export_gguf(folder, "f32")


def test_other_architectures_are_refused(tmp_path: Path) -> None:
    files = save_tiny_model(tmp_path, "gpt_neox")

    with pytest.raises(BadInput, match='unsupported architecture "gpt_neox"'):
        FloatModel(files)


def test_mixtures_of_experts_are_refused(tmp_path: Path) -> None:
    files = save_tiny_model(tmp_path, "mixtral", num_local_experts=2)

    with pytest.raises(BadInput, match=r"cannot convert mixtures of experts \(mixtral\) yet"):
        FloatModel(files)
