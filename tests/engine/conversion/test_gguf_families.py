"""GGUF files of families that only llama.cpp computes: as transformers and llama.cpp read them."""

from __future__ import annotations

import json
import random
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from olla.engine.conversion.gguf_families import FAMILIES, gguf_content
from olla.engine.conversion.gguf_file import write_content
from olla.engine.conversion.module_model import ModuleModel
from olla.engine.conversion.recipes import recipe_for
from olla.errors import BadInput
from olla.formats.gguf import read_gguf
from olla.runner.protocol import Adapter
from tests.bench.peers import LLAMA_SERVER
from tests.engine.conversion.conftest import MakeModel
from tests.engine.test_adapters import save_adapter
from tests.tiny_model import files_of

EXPERTS: dict[str, Any] = {
    "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 40, "num_key_value_heads": 4,
}  # fmt: skip
SETTINGS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 512},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "olmoe": EXPERTS,
    "qwen2_moe": EXPERTS,
    "qwen3_moe": {**EXPERTS, "norm_topk_prob": True},
}
NUM_PROMPTS, NUM_TOKENS = 8, 6


@pytest.fixture
def make_family(make_model: MakeModel) -> MakeModel:
    """With one merge in its vocabulary, since llama.cpp wants some."""

    def make(family: str, **settings: Any) -> Path:
        folder = make_model(family, vocab_size=260, **{**SETTINGS.get(family, {}), **settings})
        path = folder / "tokenizer.json"
        document = json.loads(path.read_text())
        special = {token["content"]: token["id"] for token in document["added_tokens"]}
        document["model"]["vocab"] |= {**special, "ab": 259}
        document["model"]["merges"] = [["a", "b"]]
        path.write_text(json.dumps(document))
        return folder

    return make


def write(folder: Path, kind: str = "f32", adapters: tuple[Adapter, ...] = ()) -> Path:
    path = folder / "model.gguf"
    content = gguf_content(ModuleModel(files_of(folder), adapters), "{{ messages }}")
    write_content(content, recipe_for(kind), path, lambda done, total: None)
    return path


def prompts() -> list[list[int]]:
    chosen = random.Random(1)
    return [[chosen.randrange(256) for _ in range(1 + 3 * n)] for n in range(NUM_PROMPTS)]


@torch.inference_mode()
def greedy(model: Any) -> list[list[int]]:
    replies = []
    for prompt in prompts():
        tokens = list(prompt)
        for _ in range(NUM_TOKENS):
            tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
        replies.append(tokens[len(prompt) :])
    return replies


@contextmanager
def llama_cpp(path: Path) -> Iterator[str]:
    """The address of llama.cpp's server with that model; it has to load it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(LLAMA_SERVER), "-m", str(path), "--port", str(port), "-c", "256", "-t", "1"]
    command += ["-ctk", "f32", "-ctv", "f32", "--no-warmup"]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdout=quiet, stderr=quiet) as server:
        try:
            url = f"http://127.0.0.1:{port}"
            while True:
                assert server.poll() is None, "llama-server does not load the file"
                try:
                    urllib.request.urlopen(f"{url}/health").close()
                    break
                except urllib.error.URLError:
                    time.sleep(0.05)
            yield url
        finally:
            server.kill()


def complete(url: str, prompt: list[int]) -> list[int]:
    body = {"prompt": prompt, "n_predict": NUM_TOKENS, "temperature": 0, "return_tokens": True}
    request = urllib.request.Request(f"{url}/completion", json.dumps(body).encode())
    with urllib.request.urlopen(request) as reply:
        tokens: list[int] = json.load(reply)["tokens"]
    return tokens


@torch.inference_mode()
def assert_likeliest(model: Any, replies: list[list[int]]) -> None:
    """Each token is the model's own choice, but for rounding: llama.cpp has a table of GELU."""
    assert all(replies)
    for prompt, reply in zip(prompts(), replies, strict=True):
        logits = model(torch.tensor([prompt + reply])).logits[0, len(prompt) - 1 : -1]
        chosen = logits.gather(1, torch.tensor(reply)[:, None])[:, 0]
        assert (logits.amax(dim=1) - chosen).max() <= 0.02 * logits.std()


def test_transformers_reads_the_same_model(make_family: MakeModel) -> None:
    folder = make_family("starcoder2")

    path = write(folder)
    made = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=path.name)

    own = transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert greedy(made) == greedy(own)


@pytest.mark.slow
@pytest.mark.skipif(not LLAMA_SERVER.exists(), reason="needs llama.cpp: make bench builds it")
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_llama_cpp_computes_the_same_model(make_family: MakeModel, family: str) -> None:
    folder = make_family(family)

    with llama_cpp(write(folder)) as url:
        replies = [complete(url, prompt) for prompt in prompts()]

    assert_likeliest(transformers.AutoModelForCausalLM.from_pretrained(folder), replies)


@pytest.mark.slow
@pytest.mark.skipif(not LLAMA_SERVER.exists(), reason="needs llama.cpp: make bench builds it")
def test_llama_cpp_computes_a_merged_adapter(make_family: MakeModel) -> None:
    folder = make_family("gpt_neox")
    reference = save_adapter(
        folder, folder / "adapter", seed=1, target_modules=["query_key_value", "dense_h_to_4h"]
    )

    path = write(folder, adapters=(Adapter(files_of(folder / "adapter")),))
    with llama_cpp(path) as url:
        replies = [complete(url, prompt) for prompt in prompts()]

    assert_likeliest(reference, replies)


def test_experts_are_one_tensor_and_their_router_stays_exact(make_family: MakeModel) -> None:
    path = write(make_family("mixtral", hidden_size=256, intermediate_size=256), "q4_k_m")

    file = read_gguf(path)
    kinds = {tensor.name: (tensor.shape, tensor.type.name) for tensor in file.tensors}
    assert kinds["blk.0.ffn_gate_exps.weight"] == ((4, 256, 256), "Q4_K")
    assert kinds["blk.0.ffn_gate_inp.weight"] == ((4, 256), "F32")
    assert file.metadata["llama.expert_count"] == 4
    assert file.metadata["tokenizer.chat_template"] == "{{ messages }}"


def test_other_families_and_settings_are_refused(make_family: MakeModel) -> None:
    with pytest.raises(BadInput, match=r'unsupported architecture "stablelm".*use --format hf'):
        write(make_family("stablelm"))
    with pytest.raises(BadInput, match="norm_topk_prob True of olmoe has no form in GGUF"):
        write(make_family("olmoe", norm_topk_prob=True))
    scaled = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}
    with pytest.raises(BadInput, match="rotary scaling linear of mixtral is not written"):
        write(make_family("mixtral", rope_parameters=scaled))
