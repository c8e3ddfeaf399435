"""Adapters that fit their base and those that do not, told from real files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from olla.errors import BadInput, FormatError
from olla.modelfile.lora_fit import check_gguf_adapter, check_peft_adapter
from tests.modelfile.conftest import (
    HIDDEN,
    INNER,
    KV,
    NUM_LAYERS,
    SHAPES,
    VOCAB,
    MakeAdapter,
    Tensors,
    lora_tensors,
    write_gguf,
    write_gguf_adapter,
    zeros,
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
    check_peft_adapter(make_adapter(all_linears(rank=4)), base)


def test_a_rank_of_the_rank_pattern_fits(base: dict[str, Path], make_adapter: MakeAdapter) -> None:
    adapter = make_adapter(all_linears(rank=2), rank_pattern={"q_proj": 2})

    check_peft_adapter(adapter, base)


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
        ("model.layers.0.mlp.experts.base_layer", (8, HIDDEN), (2 * INNER, 8),
         "it changes model.layers.0.mlp.experts, and the base has no experts of that name"),
        ("model.norm", (4, HIDDEN), (HIDDEN, 4),
         "it changes model.norm, which is no linear layer of the base"),
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
        check_peft_adapter(adapter, base)

    assert str(caught.value) == f"adapter does not fit the base model: {error}"


@pytest.mark.parametrize(("a_rank", "b_rank"), [(4, 2), (2, 2), (8, 8)])
def test_a_rank_that_the_config_does_not_say(
    gguf_file: Path, make_adapter: MakeAdapter, a_rank: int, b_rank: int
) -> None:
    adapter = make_adapter(lora_tensors(Q_PROJ, (a_rank, HIDDEN), (HIDDEN, b_rank)))

    with pytest.raises(FormatError, match=r"the rank must be the same, .*config.json says \(4\)"):
        check_peft_adapter(adapter, {"model.gguf": gguf_file})


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"peft_type": "LOHA"}, "adapters of peft_type LOHA are not supported, only LORA"),
        ({"layer_replication": [[0, 2]]}, "adapters with replicated layers"),
        ({"alora_invocation_tokens": [1]}, "adapters with activation by tokens of the prompt"),
        ({"arrow_config": {"top_k": 1}}, "adapters with Arrow routing (arrow_config)"),
        ({"kasa_config": {"beta": 1}}, "adapters with KaSA (kasa_config)"),
        ({"monteclora_config": {"n": 1}}, "adapters with Monte Carlo sampling"),
        ({"use_bdlora": {"nblocks": 2}}, "adapters with block-diagonal matrices (use_bdlora)"),
        ({"use_qalora": True}, "adapters with QA-LoRA (use_qalora)"),
        ({"init_lora_weights": "lora_ga"}, "adapters begun with lora_ga (init_lora_weights)"),
        ({"init_lora_weights": "pissa_niter_4"}, "adapters begun with pissa_niter_4"),
        ({"r": 0}, "adapter_config.json: r and rank_pattern must be ranks above 0"),
        ({"r": "4"}, "adapter_config.json: r and rank_pattern must be ranks above 0"),
        ({"rank_pattern": [1]}, "adapter_config.json: rank_pattern is not a JSON object"),
        ({"rank_pattern": {"a": None}}, "adapter_config.json: r and rank_pattern must be"),
        ({"lora_alpha": "x"}, "adapter_config.json: lora_alpha and alpha_pattern must be numbers"),
        ({"lora_alpha": math.nan}, "adapter_config.json: lora_alpha and alpha_pattern must be"),
        ({"alpha_pattern": {"a": 10**40}}, "adapter_config.json: lora_alpha and alpha_pattern"),
        ({"alpha_pattern": {"a": "b"}}, "adapter_config.json: lora_alpha and alpha_pattern must"),
    ],
)
def test_kinds_that_are_not_supported(
    gguf_file: Path, make_adapter: MakeAdapter, changes: dict[str, Any], error: str
) -> None:
    with pytest.raises(BadInput) as caught:
        check_peft_adapter(make_adapter(**changes), {"model.gguf": gguf_file})

    assert str(caught.value).startswith(error)


@pytest.mark.parametrize("init", [True, "gaussian", "eva", "mica"])
def test_ways_to_begin_that_leave_the_base_alone(
    gguf_file: Path, make_adapter: MakeAdapter, init: bool | str
) -> None:
    check_peft_adapter(make_adapter(init_lora_weights=init), {"model.gguf": gguf_file})


@pytest.mark.parametrize(
    "name", [f"{Q_PROJ}.lora_A.weight", f"{LORA}_A.default.weight", f"{PREFIX}model.norm.scale"]
)
def test_tensors_that_peft_does_not_save(
    gguf_file: Path, make_adapter: MakeAdapter, name: str
) -> None:
    adapter = make_adapter({name: np.zeros((4, HIDDEN), np.float32)})

    with pytest.raises(BadInput) as caught:
        check_peft_adapter(adapter, {"model.gguf": gguf_file})

    assert str(caught.value).startswith(f"{name} in adapter_model.safetensors is not supported")


KINDS: list[tuple[Tensors, dict[str, Any]]] = [
    (lora_tensors("lm_head", (4, HIDDEN), (VOCAB, 4)), {}),
    ({f"{PREFIX}model.embed_tokens.lora_embedding_A": zeros(4, VOCAB),
      f"{PREFIX}model.embed_tokens.lora_embedding_B": zeros(HIDDEN, 4),
      f"{PREFIX}model.embed_tokens.base_layer.weight": zeros(VOCAB, HIDDEN)}, {}),
    (lora_tensors(Q_PROJ, (4, HIDDEN), (HIDDEN, 4))
     | {f"{LORA}_magnitude_vector": zeros(HIDDEN)}, {"use_dora": True}),
    ({f"{PREFIX}lm_head.weight": zeros(VOCAB, HIDDEN), f"{PREFIX}model.norm.weight": zeros(HIDDEN)},
     {"modules_to_save": ["lm_head", "norm"]}),
    ({f"{PREFIX}{Q_PROJ}.base_layer.bias": zeros(HIDDEN)}, {"bias": "lora_only"}),
    ({f"{PREFIX}model.embed_tokens.token_adapter.trainable_tokens_delta": zeros(2, HIDDEN)},
     {"trainable_token_indices": [3, 5]}),
]  # fmt: skip


@pytest.mark.parametrize(("tensors", "config"), KINDS)
def test_every_kind_fits(
    base: dict[str, Path], make_adapter: MakeAdapter, tensors: Tensors, config: dict[str, Any]
) -> None:
    check_peft_adapter(make_adapter(tensors, **config), base)


@pytest.mark.parametrize(
    ("tensors", "error"),
    [
        ({f"{PREFIX}lm_head.weight": zeros(VOCAB + 3, HIDDEN)},
         "it was trained with a vocabulary of 67 tokens, but holds only its"),
        ({f"{PREFIX}model.norm.weight": zeros(8)},
         f"{PREFIX}model.norm.weight is 8, the base's is 32"),
        ({f"{PREFIX}model.extra.weight": zeros(8)}, "it changes model.extra.weight, which"),
        ({f"{PREFIX}model.embed_tokens.token_adapter.trainable_tokens_delta": zeros(2, 8)},
         f"{PREFIX}model.embed_tokens.token_adapter.trainable_tokens_delta is 2x8"),
        (lora_tensors(Q_PROJ, (4, HIDDEN), (HIDDEN, 4)) | {f"{LORA}_magnitude_vector": zeros(8)},
         f"{LORA}_magnitude_vector is 8, the base needs 32"),
    ],
)  # fmt: skip
def test_kinds_that_do_not_fit(
    base: dict[str, Path], make_adapter: MakeAdapter, tensors: Tensors, error: str
) -> None:
    with pytest.raises(BadInput) as caught:
        check_peft_adapter(make_adapter(tensors), base)

    assert str(caught.value).startswith(f"adapter does not fit the base model: {error}")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_numbers_that_are_not_finite(
    gguf_file: Path, make_adapter: MakeAdapter, value: float, dtype: type
) -> None:
    tensors = lora_tensors(Q_PROJ, (4, HIDDEN), (HIDDEN, 4))
    tensors = {name: array.astype(dtype) for name, array in tensors.items()}
    tensors[f"{LORA}_B.weight"][31, 3] = value

    with pytest.raises(FormatError, match=r"lora_B\.weight holds a number that is not finite"):
        check_peft_adapter(make_adapter(tensors), {"model.gguf": gguf_file})


def test_a_gguf_adapter_fits(base: dict[str, Path], tmp_path: Path) -> None:
    tensors = {
        "token_embd.weight.lora_a": zeros(VOCAB, 2),
        "token_embd.weight.lora_b": zeros(HIDDEN, 2),
        "blk.0.ffn_down.weight.lora_a": zeros(4, INNER),
        "blk.0.ffn_down.weight.lora_b": zeros(HIDDEN, 4),
    }

    check_gguf_adapter(write_gguf_adapter(tmp_path / "a.gguf", tensors), base)


@pytest.mark.parametrize(
    ("tensors", "error"),
    [
        ({"blk.0.attn_q.weight.lora_a": zeros(4, HIDDEN)}, "lacks its lora_a or lora_b"),
        ({"blk.0.attn_q.weight": zeros(4, HIDDEN)}, "only lora_a and lora_b are"),
        ({"blk.0.x.weight.lora_a": zeros(4, HIDDEN)}, "adapters on blk.0.x.weight of llama"),
        ({"blk.0.attn_q.weight.lora_a": zeros(4, 8), "blk.0.attn_q.weight.lora_b": zeros(32, 4)},
         "model.layers.0.self_attn.q_proj is 32x4 and 4x8, the base is 32x32"),
        ({"blk.0.attn_q.weight.lora_a": zeros(4, 32), "blk.0.attn_q.weight.lora_b": zeros(32, 2)},
         "has ranks 4 and 2"),
    ],
)  # fmt: skip
def test_a_gguf_adapter_that_does_not_fit(
    gguf_file: Path, tmp_path: Path, tensors: Tensors, error: str
) -> None:
    path = write_gguf_adapter(tmp_path / "a.gguf", tensors)

    with pytest.raises(BadInput, match=error):
        check_gguf_adapter(path, {"model.gguf": gguf_file})


def test_a_gguf_adapter_of_another_architecture(tmp_path: Path) -> None:
    base = write_gguf(tmp_path / "base.gguf", {}, architecture="qwen2")

    with pytest.raises(BadInput, match="for the architecture llama, the base is qwen2"):
        check_gguf_adapter(write_gguf_adapter(tmp_path / "a.gguf", {}), {"model.gguf": base})


@pytest.mark.parametrize(
    ("metadata", "error"),
    [
        ({"alpha": math.inf}, "adapter.lora.alpha is not a number"),
        ({"kind": "loha"}, "adapters of adapter.type loha are not supported"),
    ],
)
def test_gguf_adapters_that_are_not_supported(
    gguf_file: Path, tmp_path: Path, metadata: dict[str, Any], error: str
) -> None:
    path = write_gguf_adapter(tmp_path / "a.gguf", {}, **metadata)

    with pytest.raises((BadInput, FormatError), match=error):
        check_gguf_adapter(path, {"model.gguf": gguf_file})


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_gguf_adapter_whose_numbers_are_not_finite(
    gguf_file: Path, tmp_path: Path, dtype: type
) -> None:
    name = "blk.0.attn_q.weight"
    values: np.typing.NDArray[Any] = np.zeros((4, HIDDEN), dtype)
    values[3, 31] = np.nan
    tensors = {f"{name}.lora_a": values, f"{name}.lora_b": zeros(HIDDEN, 4)}

    with pytest.raises(FormatError, match=r"attn_q\.weight\.lora_a holds a number that is not"):
        check_gguf_adapter(
            write_gguf_adapter(tmp_path / "a.gguf", tensors), {"model.gguf": gguf_file}
        )


@pytest.mark.parametrize("side", ["A", "B"])
def test_half_a_pair(gguf_file: Path, make_adapter: MakeAdapter, side: str) -> None:
    tensors = lora_tensors(Q_PROJ, (4, HIDDEN), (HIDDEN, 4))
    del tensors[f"{LORA}_{side}.weight"]

    with pytest.raises(FormatError, match=f"stands alone: .* lacks its lora_{side}"):
        check_peft_adapter(make_adapter(tensors), {"model.gguf": gguf_file})


def test_whole_numbers_are_no_weights(gguf_file: Path, make_adapter: MakeAdapter) -> None:
    tensors = lora_tensors(Q_PROJ, (4, HIDDEN), (HIDDEN, 4))
    adapter = make_adapter({name: array.astype(np.int8) for name, array in tensors.items()})

    with pytest.raises(BadInput, match="has dtype I8, only F32, F16 and BF16 can be"):
        check_peft_adapter(adapter, {"model.gguf": gguf_file})


def test_no_weights_at_all(gguf_file: Path, make_adapter: MakeAdapter) -> None:
    with pytest.raises(FormatError, match="holds no LoRA weights"):
        check_peft_adapter(make_adapter({}), {"model.gguf": gguf_file})


@pytest.mark.parametrize("text", ["", "[1]", "nonsense", "[" * 100_000])
def test_a_config_that_is_no_object(gguf_file: Path, make_adapter: MakeAdapter, text: str) -> None:
    adapter = make_adapter()
    adapter["adapter_config.json"].write_text(text)

    with pytest.raises(FormatError, match=r"^adapter_config\.json is not (a JSON object|JSON)$"):
        check_peft_adapter(adapter, {"model.gguf": gguf_file})


def test_a_config_of_absurd_size(gguf_file: Path, make_adapter: MakeAdapter) -> None:
    adapter = make_adapter()
    with adapter["adapter_config.json"].open("r+b") as file:
        file.truncate(64 * 1024 * 1024 + 1)

    with pytest.raises(FormatError, match=r"adapter_config\.json has 67108865 bytes, more than"):
        check_peft_adapter(adapter, {"model.gguf": gguf_file})


def test_a_truncated_adapter(gguf_file: Path, make_adapter: MakeAdapter) -> None:
    adapter = make_adapter()
    weights = adapter["adapter_model.safetensors"]
    weights.write_bytes(weights.read_bytes()[:-1])

    with pytest.raises(FormatError, match="invalid safetensors file"):
        check_peft_adapter(adapter, {"model.gguf": gguf_file})


def test_a_gguf_family_whose_names_are_not_known(tmp_path: Path, make_adapter: MakeAdapter) -> None:
    base = write_gguf(tmp_path / "other.gguf", {}, architecture="mamba")

    with pytest.raises(BadInput, match='adapters on the GGUF architecture "mamba" are not'):
        check_peft_adapter(make_adapter(), {"model.gguf": base})


def test_the_text_names_the_shapes(gguf_file: Path, make_adapter: MakeAdapter) -> None:
    module = "model.layers.0.self_attn.v_proj"
    adapter = make_adapter(lora_tensors(module, (4, 2048), (KV, 4)))

    with pytest.raises(BadInput) as caught:
        check_peft_adapter(adapter, {"model.gguf": gguf_file})

    assert str(caught.value) == (
        "adapter does not fit the base model: base_model.model.model.layers.0.self_attn.v_proj."
        "lora_A.weight is 4x2048, the base needs ?x32"
    )
