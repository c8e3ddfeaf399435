"""Adapters of peft, laid over a shared base: each sequence gets its own, in one batch."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from olla.engine.adapters import AdapterTable
from olla.engine.engine import Engine
from olla.engine.loading import LoadedModel, load_model
from olla.errors import FormatError
from olla.options import SamplingParams
from olla.runner.protocol import Finished, Generate
from tests.tiny_model import files_of, save_tiny_model

ALL_LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    save_tiny_model(folder)
    return folder


@pytest.fixture
def model(base: Path) -> LoadedModel:
    return load_model(files_of(base), "float32", "cpu", 0, lambda done, total: None)


def save_adapter(base: Path, folder: Path, seed: int, **settings: Any) -> Any:
    """A random LoRA over the base, saved to `folder`; the peft model."""
    torch.manual_seed(seed)
    reference = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = peft.LoraConfig(
        **{"r": 4, "lora_alpha": 8, "target_modules": ALL_LINEARS, **settings},
        init_lora_weights=False,
    )
    model = peft.get_peft_model(reference, config).eval()
    model.save_pretrained(folder)
    return model


def generate(engine: Engine, adapters: list[Path | None]) -> list[list[int]]:
    """Greedy replies, prompts included, of one prompt under each adapter in one batch."""
    tokens = engine.encode("the same prompt", False)
    for number, folder in enumerate(adapters):
        request = Generate(
            id=number,
            prompt="",
            num_ctx=128,
            sampling=SamplingParams(temperature=0),
            num_predict=20,
            want_context=True,
            adapters=[] if folder is None else [files_of(folder)],
        )
        engine.add(request, tokens)
    replies: dict[int, list[int]] = {}
    while engine.has_work:
        replies |= {m.id: m.context for m in engine.step() if isinstance(m, Finished)}
    return [replies[number] for number in range(len(adapters))]


def likeliest(reference: Any, tokens: list[int]) -> list[int]:
    with torch.inference_mode():
        logits = reference(torch.tensor([tokens])).logits[0]
    return [int(token) for token in logits.argmax(dim=-1)]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"target_modules": ["q_proj", "v_proj"]},
        {"use_rslora": True},
        {"rank_pattern": {"q_proj": 2, "layers.1.mlp.up_proj": 6}},
        {"alpha_pattern": {"v_proj": 32, "layers.0.self_attn.o_proj": 1}},
    ],
)
def test_replies_are_those_of_peft(
    base: Path, model: LoadedModel, tmp_path: Path, settings: dict[str, Any]
) -> None:
    reference = save_adapter(base, tmp_path, seed=1, **settings)
    engine = Engine(model)

    (tokens,) = generate(engine, [tmp_path])

    start = len(engine.encode("the same prompt", False))
    assert tokens[start:] == likeliest(reference, tokens)[start - 1 : -1]


def test_adapters_and_base_answer_side_by_side_as_they_do_alone(
    base: Path, model: LoadedModel, tmp_path: Path
) -> None:
    for seed in (1, 2):
        save_adapter(base, tmp_path / str(seed), seed)
    adapters: list[Path | None] = [tmp_path / "1", None, tmp_path / "2", tmp_path / "1"]
    engine = Engine(model)
    alone = [generate(engine, [adapter])[0] for adapter in adapters]

    together = generate(engine, adapters)

    assert together == alone
    assert len({tuple(tokens) for tokens in together}) == 3


def test_the_least_recently_used_adapter_makes_room(
    base: Path, model: LoadedModel, tmp_path: Path
) -> None:
    for seed in range(3):
        save_adapter(base, tmp_path / str(seed), seed)
    files = [files_of(tmp_path / str(seed)) for seed in range(3)]
    table = AdapterTable(model.network, max_adapters=2)
    first, second = table.number([files[0]], set()), table.number([files[1]], set())

    table.number([files[0]], set())
    table.number([files[2]], set())

    assert table.number([files[0]], set()) == first
    assert table.number([files[1]], set()) != second


def test_an_adapter_in_use_is_never_pushed_out(
    base: Path, model: LoadedModel, tmp_path: Path
) -> None:
    for seed in range(2):
        save_adapter(base, tmp_path / str(seed), seed)
    files = [files_of(tmp_path / str(seed)) for seed in range(2)]
    table = AdapterTable(model.network, max_adapters=1)
    first = table.number([files[0]], set())

    table.number([files[1]], {first})

    assert table.number([files[0]], {first}) == first


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
        tensors["base_model.model.model.norm.weight"] = torch.zeros(32)
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


@pytest.mark.parametrize(
    "settings",
    [
        {"lora_alpha": "x"},
        {"lora_alpha": None},
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


def test_an_adapter_whose_file_is_gone_is_refused(
    base: Path, model: LoadedModel, tmp_path: Path
) -> None:
    save_adapter(base, tmp_path, seed=1)
    files = files_of(tmp_path)
    (tmp_path / "adapter_model.safetensors").unlink()

    with pytest.raises(FormatError, match="cannot be read"):
        AdapterTable(model.network).number([files], set())


def test_an_adapter_config_that_is_not_json_is_refused(model: LoadedModel, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{")
    (tmp_path / "adapter_model.safetensors").write_bytes(msgspec.json.encode(json.dumps({})))

    with pytest.raises(FormatError, match="is not JSON"):
        generate(Engine(model), [tmp_path])
