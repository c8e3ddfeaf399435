"""Adapters that are broken or do not fit are refused, and change nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from olla.engine.adapters import AdapterTable
from olla.engine.engine import Engine
from olla.engine.loading import LoadedModel, load_model
from olla.engine.parts import TokenRows
from olla.engine.weights.gguf_lora import read_gguf_lora
from olla.engine.weights.lora import read_lora
from olla.errors import FormatError
from olla.runner.protocol import Adapter
from tests.engine.test_adapters import generate, paths_of, save_adapter
from tests.modelfile.conftest import write_gguf_adapter
from tests.tiny_model import files_of, save_tiny_model


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    save_tiny_model(folder)
    return folder


@pytest.fixture(scope="module")
def model(base: Path) -> LoadedModel:
    return load_model(files_of(base), "float32", "cpu", 0, lambda done, total: None)


def break_adapter(folder: Path, change: str) -> None:
    weights = folder / "adapter_model.safetensors"
    tensors = load_file(weights)
    key = next(name for name in tensors if "q_proj.lora_A" in name)
    if change == "wide":
        tensors[key] = torch.zeros(4, 33)
    elif change == "layer":
        tensors[re.sub(r"layers\.\d+", "layers.7", key)] = tensors.pop(key)
    elif change == "alone":
        del tensors[key.replace("lora_A", "lora_B")]
    elif change == "other alone":
        del tensors[key]
    elif change == "empty":
        tensors.clear()
    elif change == "rank":
        tensors[key] = torch.zeros(0, 32)
        tensors[key.replace("lora_A", "lora_B")] = torch.zeros(32, 0)
    elif change == "stranger":
        tensors["base_model.model.model.norm.running_mean"] = torch.zeros(32)
    elif change == "nan":
        tensors[key][1, 2] = torch.nan
    elif change == "vector":
        tensors[key] = torch.zeros(32)
    save_file(tensors, weights)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("wide", "the base is"),
        ("layer", "lacks its lora_|no module"),
        ("alone", "lacks its lora_A or lora_B"),
        ("other alone", "lacks its lora_A or lora_B"),
        ("empty", "holds no weights"),
        ("rank", "cannot be read"),
        ("stranger", "is no LoRA weight"),
        ("nan", "holds a number that is not finite"),
        ("vector", "not a pair of matrices"),
    ],
)
def test_an_adapter_that_does_not_fit_changes_nothing(
    base: Path, model: LoadedModel, tmp_path: Path, change: str, words: str
) -> None:
    save_adapter(base, tmp_path, seed=1)
    break_adapter(tmp_path, change)
    engine = Engine(model)
    before = generate(engine, [None])

    with pytest.raises(FormatError, match=words):
        generate(engine, [tmp_path])

    assert generate(engine, [None]) == before


def test_only_an_embedding_and_a_head_have_tokens_to_train(model: LoadedModel) -> None:
    part = TokenRows("model.layers.0.self_attn.q_proj", torch.tensor([1]), torch.zeros(1, 32))

    with pytest.raises(FormatError, match="q_proj has no tokens that could be trained"):
        model.network.add_adapter(1, [part])


@pytest.mark.parametrize(
    "settings",
    [
        {"lora_alpha": "x"},
        {"lora_alpha": None},
        {"lora_alpha": 1e40},
        {"alpha_pattern": {"(": 1}},
        {"alpha_pattern": [1]},
        {"alora_invocation_tokens": [1]},
    ],
)
def test_an_adapter_config_that_makes_no_sense_is_refused(
    base: Path, model: LoadedModel, tmp_path: Path, settings: dict[str, Any]
) -> None:
    save_adapter(base, tmp_path, seed=1)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))

    with pytest.raises(FormatError, match="the adapter"):
        generate(Engine(model), [tmp_path])


def test_an_alpha_in_gguf_that_is_too_large_for_the_numbers_is_refused(tmp_path: Path) -> None:
    name = "blk.0.attn_q.weight"
    tensors = {
        f"{name}.lora_a": np.ones((4, 32), np.float32),
        f"{name}.lora_b": np.full((32, 4), 100, np.float32),
    }
    path = write_gguf_adapter(tmp_path / "adapter.gguf", tensors, alpha=1e38)

    with pytest.raises(FormatError, match=r"alpha is too large for its .*\.0\.self_attn\.q_proj"):
        read_gguf_lora(path, None)


def test_an_adapter_whose_file_is_gone_is_refused(
    base: Path, model: LoadedModel, tmp_path: Path
) -> None:
    save_adapter(base, tmp_path, seed=1)
    files = Adapter(files_of(tmp_path))
    (tmp_path / "adapter_model.safetensors").unlink()

    with pytest.raises(FormatError, match="cannot be read"):
        AdapterTable(model.network).number([files], set())


def test_an_adapter_config_that_is_not_json_is_refused(model: LoadedModel, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{")
    (tmp_path / "adapter_model.safetensors").write_bytes(msgspec.json.encode(json.dumps({})))

    with pytest.raises(FormatError, match="is not JSON"):
        generate(Engine(model), [tmp_path])


@pytest.mark.parametrize(
    ("ranks", "config", "words"),
    [
        (8, {"r": 4, "rank_pattern": {"down_proj": 2}}, "no rank_pattern for experts in one"),
        (8, {"r": 4, "alpha_pattern": {"gate_up_proj": 2}}, "no alpha_pattern for experts in one"),
        (6, {"r": 4}, "experts has ranks 6 and 6"),
        (8, {"r": 0}, "r must be a positive whole number"),
    ],
)
def test_pairs_for_experts_that_cannot_be_told_apart_are_refused(
    tmp_path: Path, ranks: int, config: dict[str, Any], words: str
) -> None:
    stack = "base_model.model.model.layers.0.mlp.experts"
    pair = {"A": torch.zeros(ranks, 32), "B": torch.zeros(32, ranks)}
    save_file({f"{stack}.lora_{side}.weight": values for side, values in pair.items()},
              tmp_path / "adapter_model.safetensors")  # fmt: skip
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))

    with pytest.raises(FormatError, match=words):
        read_lora(paths_of(tmp_path))
