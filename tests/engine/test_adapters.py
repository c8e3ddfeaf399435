"""Adapters of peft, laid over a shared base: each sequence gets its own, in one batch."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import gguf
import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file

from olla.engine.adapters import AdapterTable
from olla.engine.engine import Engine
from olla.engine.loading import LoadedModel, load_model
from olla.engine.models.decoder import Decoder
from olla.engine.models.overlay import Place
from olla.modelfile.lora_fit import check_peft_adapter
from olla.options import SamplingParams
from olla.runner.protocol import Adapter, Finished, Generate
from tests.engine.test_families import EXPERTS
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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's advice to whoever trains
        model = peft.get_peft_model(reference, config).eval()
        move_from_the_start(model)
        model.save_pretrained(folder)
    return model


@torch.no_grad()
def move_from_the_start(model: Any) -> None:
    """As training would."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.add_(torch.randn_like(parameter), alpha=0.1)


def generate(engine: Engine, adapters: Iterable[Path | None]) -> list[list[int]]:
    """Greedy replies, prompts included, of one prompt under each adapter in one batch."""
    return generate_with(
        engine, [[] if path is None else [Adapter(files_at(path))] for path in adapters]
    )


def files_at(path: Path) -> dict[str, str]:
    return files_of(path) if path.is_dir() else {path.name: str(path)}


def paths_of(folder: Path) -> dict[str, Path]:
    return {name: Path(path) for name, path in files_of(folder).items() if name != "README.md"}


def generate_with(engine: Engine, adapters: Sequence[list[Adapter]]) -> list[list[int]]:
    tokens = engine.encode("the same prompt", False)
    for number, used in enumerate(adapters):
        request = Generate(
            id=number,
            prompt="",
            num_ctx=128,
            sampling=SamplingParams(temperature=0),
            num_predict=20,
            want_context=True,
            adapters=used,
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

    assert_as_in_peft(engine, reference, tokens)


def assert_as_in_peft(engine: Engine, reference: Any, tokens: list[int]) -> None:
    start = len(engine.encode("the same prompt", False))
    assert tokens[start:] == likeliest(reference, tokens)[start - 1 : -1]


TRAINED = {"embed_tokens": [3, 116], "lm_head": [7, 9]}
"""116 is the prompt's first letter."""

KINDS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("llama", {}, {"use_dora": True}),
    ("llama", {}, {"use_dora": True, "use_rslora": True, "target_modules": ["embed_tokens"]}),
    ("qwen2", {}, {"use_dora": True, "bias": "lora_only"}),
    ("qwen2", {}, {"bias": "all"}),
    ("qwen2", {}, {"lora_bias": True}),
    ("llama", {}, {"modules_to_save": ["lm_head", "embed_tokens", "norm", "input_layernorm"]}),
    ("llama", {"tie_word_embeddings": True}, {"modules_to_save": ["embed_tokens"]}),
    ("llama", {"tie_word_embeddings": True},
     {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}),
    ("llama", {}, {"target_modules": ["q_proj", "embed_tokens", "lm_head"]}),
    ("llama", {"tie_word_embeddings": True}, {"target_modules": ["q_proj", "embed_tokens"]}),
    ("llama", {}, {"trainable_token_indices": TRAINED}),
    ("llama", {"tie_word_embeddings": True}, {"trainable_token_indices": [3, 116]}),
    ("gemma2", {"query_pre_attn_scalar": 8},
     {"target_modules": ["embed_tokens", "q_proj"], "modules_to_save": ["norm", "down_proj"]}),
    ("qwen3", {}, {"modules_to_save": ["q_norm", "k_norm", "mlp"], "target_modules": ["o_proj"]}),
    ("phi3", {}, {"target_modules": ["qkv_proj", "gate_up_proj"], "use_dora": True}),
    ("qwen2_moe", {**EXPERTS, "shared_expert_intermediate_size": 40},
     {"target_modules": ["q_proj", "shared_expert.up_proj"],
      "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj", "gate.weight"]}),
    ("granitemoe", {"num_local_experts": 4},
     {"target_modules": ["o_proj"], "target_parameters": ["experts.down_proj", "router.weight"]}),
    ("gpt_neox", {}, {"target_modules": ["query_key_value", "lm_head", "embed_in"],
                      "bias": "all", "modules_to_save": ["final_layer_norm"]}),
    ("gpt_neox", {}, {"target_modules": ["query_key_value"], "use_dora": True,
                      "trainable_token_indices": {"embed_in": [3, 116], "lm_head": [7]}}),
    ("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512},
     {"target_modules": ["c_attn", "c_proj", "c_fc"], "use_dora": True, "bias": "all",
      "modules_to_save": ["wpe", "ln_1"]}),
]  # fmt: skip


@pytest.mark.parametrize(("family", "shape", "settings"), KINDS)
def test_every_kind_answers_as_in_peft_alone_and_beside_others(
    tmp_path: Path, family: str, shape: dict[str, Any], settings: dict[str, Any]
) -> None:
    folder = tmp_path / "base"
    folder.mkdir()
    save_tiny_model(folder, family, **shape)
    reference = save_adapter(folder, tmp_path / "kind", seed=1, **settings)
    targets = settings.get("target_modules", ALL_LINEARS)
    other = save_adapter(folder, tmp_path / "plain", seed=2, target_modules=targets[:1])
    model = load_model(files_of(folder), "float32", "cpu", 0, lambda done, total: None)
    engine = Engine(model)

    check_peft_adapter(paths_of(tmp_path / "kind"), paths_of(folder))
    (alone,) = generate(engine, [tmp_path / "kind"])
    mixed = generate(engine, [tmp_path / "plain", tmp_path / "kind", None])

    assert_as_in_peft(engine, reference, alone)
    assert_as_in_peft(engine, other, mixed[0])
    assert mixed[1] == alone
    assert mixed[2] != alone


def test_adapters_to_a_scale_add_up_as_in_peft(
    base: Path, model: LoadedModel, tmp_path: Path
) -> None:
    reference = save_adapter(base, tmp_path / "one", seed=1)
    save_adapter(base, tmp_path / "two", seed=2, r=2)
    reference.load_adapter(tmp_path / "two", "two")
    reference.add_weighted_adapter(["default", "two"], [0.5, 1.5], "both", "cat")
    reference.set_adapter("both")
    adapters = [Adapter(files_of(tmp_path / "one"), 0.5), Adapter(files_of(tmp_path / "two"), 1.5)]
    engine = Engine(model)

    mixed = generate_with(engine, [adapters, adapters[:1], adapters])

    assert_as_in_peft(engine, reference, mixed[0])
    assert mixed[0] == mixed[2] != mixed[1]


SEVERAL: list[tuple[str, dict[str, Any], list[dict[str, Any]]]] = [
    ("llama", {}, [{}, {"use_dora": True}, {"use_dora": True, "r": 2}]),
    ("qwen2", {}, [{"lora_bias": True, "target_modules": ["q_proj"]}, {"use_dora": True}]),
    ("llama", {}, [{"target_modules": ["embed_tokens", "lm_head"]},
                   {"target_modules": ["embed_tokens", "lm_head"], "use_dora": True}]),
    ("gpt_neox", {}, [{"target_modules": ["query_key_value", "dense"], "use_dora": dora}
                      for dora in (False, True)]),
]  # fmt: skip


@pytest.mark.parametrize(("family", "shape", "kinds"), SEVERAL)
def test_a_dora_over_others_answers_as_in_peft(
    tmp_path: Path, family: str, shape: dict[str, Any], kinds: list[dict[str, Any]]
) -> None:
    """Each is given what those before it made, in peft and here; so their order counts."""
    (tmp_path / "base").mkdir()
    save_tiny_model(tmp_path / "base", family, **shape)
    folders = [tmp_path / str(number) for number in range(len(kinds))]
    for seed, (folder, settings) in enumerate(zip(folders, kinds, strict=True)):
        save_adapter(tmp_path / "base", folder, seed=seed, **settings)
    reference = active_together(tmp_path / "base", folders)
    adapters = [Adapter(files_of(folder)) for folder in folders]

    model = load_model(files_of(tmp_path / "base"), "float32", "cpu", 0, lambda done, total: None)
    engine = Engine(model)
    replies = generate_with(engine, [adapters, adapters[::-1], adapters[:1]])

    assert_as_in_peft(engine, reference, replies[0])
    assert_as_in_peft(engine, active_together(tmp_path / "base", folders[::-1]), replies[1])
    assert replies[0] != replies[2]


def active_together(base: Path, folders: Sequence[Path]) -> Any:
    """peft's model with these adapters at once, in their order."""
    reference = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = peft.PeftModel.from_pretrained(reference, folders[0], folders[0].name)
    for folder in folders[1:]:
        model.load_adapter(folder, folder.name)
    model.base_model.set_adapter([folder.name for folder in folders])
    return model.eval()


def save_gguf_adapter(folder: Path, path: Path, num_heads: int, num_kv_heads: int) -> None:
    """A peft adapter as llama.cpp's converter writes it."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 8.0)
    for name, tensor in load_file(folder / "adapter_model.safetensors").items():
        module, _, side = name.removeprefix("base_model.model.").rpartition(".lora_")
        heads = {"q_proj": num_heads, "k_proj": num_kv_heads}.get(module.rpartition(".")[2])
        if heads and side.startswith("B"):
            rows = tensor.reshape(heads, 2, -1, tensor.shape[1]).transpose(1, 2)
        else:
            rows = tensor
        values = rows.reshape(tensor.shape).numpy()
        writer.add_tensor(f"{gguf_name(module)}.weight.lora_{side[0].lower()}", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gguf_name(module: str) -> str:
    names = {
        "q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output",
        "gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down",
    }  # fmt: skip
    parts = module.split(".")
    return f"blk.{parts[2]}.{names[parts[-1]]}"


def test_an_adapter_in_gguf_answers_as_the_one_it_was_made_of(
    base: Path, model: LoadedModel, tmp_path: Path
) -> None:
    reference = save_adapter(base, tmp_path / "peft", seed=1)
    save_gguf_adapter(tmp_path / "peft", tmp_path / "adapter.gguf", 4, 2)
    engine = Engine(model)

    (tokens,) = generate(engine, [tmp_path / "adapter.gguf"])

    assert_as_in_peft(engine, reference, tokens)


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
    files = [Adapter(files_of(tmp_path / str(seed))) for seed in range(3)]
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
    files = [Adapter(files_of(tmp_path / str(seed))) for seed in range(2)]
    table = AdapterTable(model.network, max_adapters=1)
    first = table.number([files[0]], set())

    table.number([files[1]], {first})

    assert table.number([files[0]], {first}) == first


def test_a_deleted_adapter_goes_when_nobody_uses_it(
    base: Path, model: LoadedModel, tmp_path: Path
) -> None:
    save_adapter(base, tmp_path, seed=1)
    adapter = Adapter(files_of(tmp_path))
    removed: list[int] = []
    table = AdapterTable(model.network, on_removed=removed.append)
    number = table.number([adapter], set())
    for path in adapter.files.values():
        Path(path).unlink()

    table.number([], {number})
    assert table.number([adapter], {number}) == number
    assert removed == []

    table.number([], set())

    assert removed == [number]
    assert isinstance(model.network, Decoder)
    places = [place for _, place in model.network.modules() if isinstance(place, Place)]
    assert not any(place.linear.deltas for place in places)
