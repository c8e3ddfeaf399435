"""What trainers leave behind, as they lay it out: which files become a model, and which do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from olla.cli.create import read_recipe
from olla.modelfile.files import collect_adapter, collect_files
from olla.modelfile.parse import parse_modelfile

WEIGHTS = b"\x08\x00\x00\x00 weights"
PICKLE = b"\x80\x02 pickled"
TEXTS = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "trainer_state.json")
ADAPTER = {"adapter_config.json", "adapter_model.safetensors"}


def lay_out(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        is_binary = name.endswith((".safetensors", ".gguf", ".bin", ".pt", ".pth"))
        path.write_bytes((PICKLE if ".bin" in name or ".pt" in name else WEIGHTS)
                         if is_binary else b"{}")  # fmt: skip
    return folder


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """LLaMA-Factory's and the Trainer's output_dir of a LoRA, with a checkpoint."""
    ends = (*ADAPTER, *TEXTS, "README.md", "training_args.bin", "chat_template.jinja")
    rests = (*ADAPTER, *TEXTS, "training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth")
    more = ("all_results.json", "train_results.json", "trainer_log.jsonl")
    return lay_out(tmp_path / "lora", *ends, *more, *(f"checkpoint-20/{name}" for name in rests))


def test_an_adapter_is_found_among_what_training_left(trained: Path) -> None:
    texts = {*TEXTS, "chat_template.jinja"} - {"trainer_state.json"}
    assert set(collect_adapter(trained)) == ADAPTER | texts
    assert collect_adapter(trained / "checkpoint-20")["adapter_model.safetensors"].parent.name == (
        "checkpoint-20"
    )


def test_a_model_that_was_trained_whole_leaves_its_checkpoints_out(tmp_path: Path) -> None:
    names = ("config.json", "generation_config.json", "model.safetensors", *TEXTS)
    folder = lay_out(tmp_path / "full", *names, "training_args.bin",
                     *(f"checkpoint-20/{name}" for name in (*names, "optimizer.pt")))  # fmt: skip

    assert set(collect_files(folder)) == set(names)


def test_a_merged_export_with_its_modelfile(tmp_path: Path) -> None:
    """As LLaMA-Factory writes it, beside the weights."""
    shards = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    folder = lay_out(tmp_path / "merged", "config.json", *shards, "model.safetensors.index.json")
    text = (
        '# ollama modelfile\n\nFROM .\n\nTEMPLATE """{{ .Prompt }}"""\n\nPARAMETER num_ctx 4096\n'
    )

    recipe = read_recipe("mine", parse_modelfile(text), folder)

    assert set(recipe.files) == {path.name for path in folder.iterdir()}
    assert (recipe.request.template, recipe.request.parameters) == (
        "{{ .Prompt }}", {"num_ctx": 4096},
    )  # fmt: skip


def test_a_gguf_file_with_its_modelfile(tmp_path: Path) -> None:
    """As Unsloth writes it: save_pretrained_gguf."""
    folder = lay_out(tmp_path / "gguf", "mine.Q4_K_M.gguf", "config.json", "tokenizer.json")
    text = 'FROM mine.Q4_K_M.gguf\nTEMPLATE """{{ .Prompt }}"""\nPARAMETER stop "<|eot_id|>"\n'

    recipe = read_recipe("mine", parse_modelfile(text), folder)

    assert set(recipe.files) == {"mine.Q4_K_M.gguf"}
