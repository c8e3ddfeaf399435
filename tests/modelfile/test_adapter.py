"""Adapters that fit their base and those that do not, told from real files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from olla.errors import BadInput, FormatError
from olla.modelfile.adapter import check_adapter
from tests.modelfile.conftest import (
    HIDDEN,
    KV,
    NUM_LAYERS,
    SHAPES,
    MakeAdapter,
    Tensors,
    lora_tensors,
    write_gguf,
)

Q_PROJ = "model.layers.0.self_attn.q_proj"
PREFIX = "base_model.model."
LORA = f"{PREFIX}{Q_PROJ}.lora"


@pytest.fixture(params=["gguf", "repository"])
def base(request: pytest.FixtureRequest) -> dict[str, Path]:
    if request.param == "gguf":
        return {"model.gguf": request.getfixturevalue("gguf_file")}
    directory: Path = request.getfixturevalue("repository")
    return {path.name: path for path in directory.iterdir()}


def all_linears(rank: int) -> Tensors:
    tensors: Tensors = {}
    for index in range(NUM_LAYERS):
        for name, (out, inner) in SHAPES.items():
            module = f"model.layers.{index}.{name}"
            tensors |= lora_tensors(module, (rank, inner), (out, rank))
    return tensors


def test_an_adapter_of_every_linear_fits(base: dict[str, Path], make_adapter: MakeAdapter) -> None:
    check_adapter(make_adapter(all_linears(rank=4)), base)


def test_a_rank_of_the_rank_pattern_fits(base: dict[str, Path], make_adapter: MakeAdapter) -> None:
    adapter = make_adapter(all_linears(rank=2), rank_pattern={"q_proj": 2})

    check_adapter(adapter, base)


@pytest.mark.parametrize(
    ("module", "a", "b", "error"),
    [
        (Q_PROJ, (4, 48), (HIDDEN, 4), f"{LORA}_A.weight is 4x48, the base needs ?x32"),
        (Q_PROJ, (4, HIDDEN), (48, 4), f"{LORA}_B.weight is 48x4, the base needs 32x?"),
        (Q_PROJ, (4, HIDDEN, 1), (HIDDEN, 4),
         f"{LORA}_A.weight is 4x32x1, the base needs ?x32"),
        (Q_PROJ, (4, HIDDEN), (HIDDEN,), f"{LORA}_B.weight is 32, the base needs 32x?"),
        ("model.layers.2.self_attn.q_proj", (4, HIDDEN), (HIDDEN, 4),
         "it changes model.layers.2.self_attn.q_proj, which is no linear layer of the base"),
        ("model.norm", (4, HIDDEN), (HIDDEN, 4),
         "it changes model.norm, which is no linear layer of the base"),
        ("model.embed_tokens", (4, HIDDEN), (64, 4),
         "it changes model.embed_tokens, which is no linear layer of the base"),
    ],
)  # fmt: skip
def test_a_pair_that_does_not_fit(
    base: dict[str, Path],
    make_adapter: MakeAdapter,
    module: str,
    a: tuple[int, ...],
    b: tuple[int, ...],
    error: str,
) -> None:
    adapter = make_adapter(lora_tensors(module, a, b))

    with pytest.raises(BadInput) as caught:
        check_adapter(adapter, base)

    assert str(caught.value) == f"adapter does not fit the base model: {error}"


@pytest.mark.parametrize(("a_rank", "b_rank"), [(4, 2), (2, 2), (8, 8)])
def test_a_rank_that_the_config_does_not_say(
    gguf_file: Path, make_adapter: MakeAdapter, a_rank: int, b_rank: int
) -> None:
    adapter = make_adapter(lora_tensors(Q_PROJ, (a_rank, HIDDEN), (HIDDEN, b_rank)))

    with pytest.raises(FormatError, match=r"the rank must be the same, .*config.json says \(4\)"):
        check_adapter(adapter, {"model.gguf": gguf_file})


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"peft_type": "LOHA"}, "adapters of peft_type LOHA are not supported, only LORA"),
        ({"use_dora": True}, "adapters with DoRA (use_dora)"),
        ({"modules_to_save": ["lm_head"]}, "adapters with whole modules trained beside the LoRA"),
        ({"lora_bias": True}, "adapters with trained biases (lora_bias)"),
        ({"trainable_token_indices": [1]}, "adapters with trained token embeddings"),
        ({"layer_replication": [[0, 2]]}, "adapters with replicated layers"),
        ({"alora_invocation_tokens": [1]}, "adapters with activation by tokens of the prompt"),
        ({"arrow_config": {"top_k": 1}}, "adapters with Arrow routing (arrow_config)"),
        ({"kasa_config": {"beta": 1}}, "adapters with KaSA (kasa_config)"),
        ({"monteclora_config": {"n": 1}}, "adapters with Monte Carlo sampling"),
        ({"use_bdlora": {"nblocks": 2}}, "adapters with block-diagonal matrices (use_bdlora)"),
        ({"use_qalora": True}, "adapters with QA-LoRA (use_qalora)"),
        ({"init_lora_weights": "lora_ga"}, "adapters begun with lora_ga (init_lora_weights)"),
        ({"bias": "all"}, "adapters with trained biases (bias: all) are not supported"),
        ({"init_lora_weights": "pissa_niter_4"}, "adapters begun with pissa_niter_4"),
        ({"r": 0}, "adapter_config.json: r and rank_pattern must be ranks above 0"),
        ({"r": "4"}, "adapter_config.json: r and rank_pattern must be ranks above 0"),
        ({"rank_pattern": [1]}, "adapter_config.json: rank_pattern is not a JSON object"),
        ({"rank_pattern": {"a": None}}, "adapter_config.json: r and rank_pattern must be"),
        ({"lora_alpha": "x"}, "adapter_config.json: lora_alpha and alpha_pattern must be numbers"),
        ({"alpha_pattern": {"a": "b"}}, "adapter_config.json: lora_alpha and alpha_pattern must"),
    ],
)
def test_kinds_that_are_not_supported(
    gguf_file: Path, make_adapter: MakeAdapter, changes: dict[str, Any], error: str
) -> None:
    with pytest.raises(BadInput) as caught:
        check_adapter(make_adapter(**changes), {"model.gguf": gguf_file})

    assert str(caught.value).startswith(error)


@pytest.mark.parametrize("init", [True, "gaussian", "eva", "mica"])
def test_ways_to_begin_that_leave_the_base_alone(
    gguf_file: Path, make_adapter: MakeAdapter, init: bool | str
) -> None:
    check_adapter(make_adapter(init_lora_weights=init), {"model.gguf": gguf_file})


@pytest.mark.parametrize(
    "name",
    [
        f"{Q_PROJ}.lora_A.weight",
        f"{LORA}_magnitude_vector.weight",
        f"{PREFIX}model.embed_tokens.lora_embedding_A",
        f"{LORA}_A.default.weight",
        f"{PREFIX}lm_head.weight",
    ],
)
def test_tensors_that_are_no_lora_of_a_linear(
    gguf_file: Path, make_adapter: MakeAdapter, name: str
) -> None:
    adapter = make_adapter({name: np.zeros((4, HIDDEN), np.float32)})

    with pytest.raises(BadInput) as caught:
        check_adapter(adapter, {"model.gguf": gguf_file})

    assert str(caught.value).startswith(f"{name} in adapter_model.safetensors is not supported")


def test_adapters_on_the_head_are_refused(gguf_file: Path, make_adapter: MakeAdapter) -> None:
    adapter = make_adapter(lora_tensors("lm_head", (4, HIDDEN), (64, 4)))

    with pytest.raises(BadInput, match="adapters on lm_head are not supported"):
        check_adapter(adapter, {"model.gguf": gguf_file})


@pytest.mark.parametrize("side", ["A", "B"])
def test_half_a_pair(gguf_file: Path, make_adapter: MakeAdapter, side: str) -> None:
    tensors = lora_tensors(Q_PROJ, (4, HIDDEN), (HIDDEN, 4))
    del tensors[f"{LORA}_{side}.weight"]

    with pytest.raises(FormatError, match=f"stands alone: .* lacks its lora_{side}"):
        check_adapter(make_adapter(tensors), {"model.gguf": gguf_file})


def test_whole_numbers_are_no_weights(gguf_file: Path, make_adapter: MakeAdapter) -> None:
    tensors = lora_tensors(Q_PROJ, (4, HIDDEN), (HIDDEN, 4))
    adapter = make_adapter({name: array.astype(np.int8) for name, array in tensors.items()})

    with pytest.raises(BadInput, match="has dtype I8, only F32, F16 and BF16 can be"):
        check_adapter(adapter, {"model.gguf": gguf_file})


def test_no_weights_at_all(gguf_file: Path, make_adapter: MakeAdapter) -> None:
    with pytest.raises(FormatError, match="holds no LoRA weights"):
        check_adapter(make_adapter({}), {"model.gguf": gguf_file})


@pytest.mark.parametrize("text", ["", "[1]", "nonsense", "[" * 100_000])
def test_a_config_that_is_no_object(gguf_file: Path, make_adapter: MakeAdapter, text: str) -> None:
    adapter = make_adapter()
    adapter["adapter_config.json"].write_text(text)

    with pytest.raises(FormatError, match=r"^adapter_config\.json is not (a JSON object|JSON)$"):
        check_adapter(adapter, {"model.gguf": gguf_file})


def test_a_config_of_absurd_size(gguf_file: Path, make_adapter: MakeAdapter) -> None:
    adapter = make_adapter()
    with adapter["adapter_config.json"].open("r+b") as file:
        file.truncate(64 * 1024 * 1024 + 1)

    with pytest.raises(FormatError, match=r"adapter_config\.json has 67108865 bytes, more than"):
        check_adapter(adapter, {"model.gguf": gguf_file})


def test_a_truncated_adapter(gguf_file: Path, make_adapter: MakeAdapter) -> None:
    adapter = make_adapter()
    weights = adapter["adapter_model.safetensors"]
    weights.write_bytes(weights.read_bytes()[:-1])

    with pytest.raises(FormatError, match="invalid safetensors file"):
        check_adapter(adapter, {"model.gguf": gguf_file})


def test_a_gguf_family_whose_names_are_not_known(tmp_path: Path, make_adapter: MakeAdapter) -> None:
    base = write_gguf(tmp_path / "other.gguf", {}, architecture="mamba")

    with pytest.raises(BadInput, match='adapters on the GGUF architecture "mamba" are not'):
        check_adapter(make_adapter(), {"model.gguf": base})


def test_the_text_names_the_shapes(gguf_file: Path, make_adapter: MakeAdapter) -> None:
    module = "model.layers.0.self_attn.v_proj"
    adapter = make_adapter(lora_tensors(module, (4, 2048), (KV, 4)))

    with pytest.raises(BadInput) as caught:
        check_adapter(adapter, {"model.gguf": gguf_file})

    assert str(caught.value) == (
        "adapter does not fit the base model: base_model.model.model.layers.0.self_attn.v_proj."
        "lora_A.weight is 4x2048, the base needs ?x32"
    )
