"""A load needs hardly more memory than what it leaves behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file

from tests.tiny_model import BOS, EOS, PAD, files_of, save_byte_tokenizer

MOST = 1.3
NUM_LAYERS, HIDDEN, MIDDLE, VOCABULARY = 4, 1280, 4096, 32000

LOAD = """
import json, sys
import torch
from olla.engine.loading import load_model

def memory(field):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

reports = []
if sys.argv[3] == "hf":
    import olla.engine.models.hf
before = memory("VmRSS")
model = load_model(json.loads(sys.argv[1]), sys.argv[2], "cpu", 1, lambda *of: reports.append(of))
print(json.dumps([memory("VmHWM") - before, model.num_bytes, reports]))
"""


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A llama of 220 MB in bfloat16, in one file."""
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=HIDDEN, intermediate_size=MIDDLE,
        num_hidden_layers=NUM_LAYERS, num_attention_heads=10, num_key_value_heads=2,
        bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD, tie_word_embeddings=True,
        architectures=["LlamaForCausalLM"],
    )  # fmt: skip
    return save(tmp_path_factory.mktemp("llama"), config)


@pytest.fixture(scope="module")
def gpt_neox(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A model of 230 MB in bfloat16 for transformers' own module."""
    config = transformers.GPTNeoXConfig(
        vocab_size=VOCABULARY, hidden_size=1024, intermediate_size=MIDDLE, num_hidden_layers=4,
        num_attention_heads=8, bos_token_id=BOS, eos_token_id=EOS, architectures=[
            "GPTNeoXForCausalLM"
        ],
    )  # fmt: skip
    return save(tmp_path_factory.mktemp("gpt_neox"), config)


def save(folder: Path, config: Any) -> dict[str, str]:
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    names = {name for name, _ in model.named_parameters()}
    tensors = {
        name: torch.full(tensor.shape, 0.01, dtype=torch.bfloat16)
        for name, tensor in model.state_dict().items()
        if name in names
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(folder)
    save_byte_tokenizer(folder)
    return files_of(folder)


def load(files: dict[str, str], dtype: str, kind: str) -> tuple[int, int, list[list[int]]]:
    """The most memory that the load took beside what was there before, the model's, the reports."""
    found = subprocess.run(
        [sys.executable, "-c", LOAD, json.dumps(files), dtype, kind],
        capture_output=True,
        text=True,
        timeout=200,
        check=True,
    )
    peak, size, reports = json.loads(found.stdout.splitlines()[-1])
    return peak, size, reports


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float32", marks=pytest.mark.slow)])
def test_the_decoder_is_loaded_piece_by_piece(llama: dict[str, str], dtype: str) -> None:
    peak, size, reports = load(llama, dtype, "lean")

    assert size > 200e6
    assert peak <= MOST * size
    assert reports == sorted(reports)
    assert reports[-1][0] == reports[-1][1]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_transformers_module_is_loaded_piece_by_piece(gpt_neox: dict[str, str]) -> None:
    peak, size, reports = load(gpt_neox, "float32", "hf")

    assert size > 400e6
    assert peak <= MOST * size
    assert len(reports) > 10
    assert reports == sorted(reports)
    assert reports[-1][0] == reports[-1][1]
