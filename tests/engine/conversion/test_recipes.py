"""Names of quantizations, and which type they give to what."""

from __future__ import annotations

import pytest

from olla.engine.conversion.recipes import RECIPES, recipe_for, type_for
from olla.errors import BadInput
from olla.formats.ggml_types import GgmlType
from olla.quantization import GGUF_ALIASES, GGUF_TYPES

LAYER = "blk.{}.{}.weight"


@pytest.mark.parametrize(
    ("name", "file_type"), [("q8_0", 7), ("Q4_K", 15), ("int4", 3), ("Q4_k_S", 14)]
)
def test_names_in_any_case(name: str, file_type: int) -> None:
    assert recipe_for(name).file_type == file_type


def test_every_type_has_a_recipe() -> None:
    assert tuple(RECIPES) == GGUF_TYPES
    assert set(GGUF_ALIASES.values()) <= RECIPES.keys()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("q9", "unsupported quantization type q9 - supported"),
        ("nf4", "nf4 has no form in GGUF: it is written with --format hf"),
    ],
)
def test_names_of_nothing(name: str, text: str) -> None:
    with pytest.raises(BadInput, match=text):
        recipe_for(name)


@pytest.mark.parametrize(
    ("name", "shape", "is_head", "expected"),
    [
        (LAYER.format(0, "attn_v"), (64, 256), False, GgmlType.Q6_K),
        (LAYER.format(4, "attn_v"), (64, 256), False, GgmlType.Q6_K),
        (LAYER.format(5, "ffn_down"), (64, 256), False, GgmlType.Q4_K),
        (LAYER.format(14, "ffn_down"), (64, 256), False, GgmlType.Q6_K),
        (LAYER.format(0, "attn_q"), (64, 256), False, GgmlType.Q4_K),
        (LAYER.format(0, "attn_q"), (64, 96), False, GgmlType.Q5_0),
        (LAYER.format(0, "attn_q"), (64, 20), False, GgmlType.F16),
        ("token_embd.weight", (64, 256), True, GgmlType.Q6_K),
        (LAYER.format(0, "ffn_down_exps"), (4, 64, 256), False, GgmlType.Q6_K),
        (LAYER.format(0, "ffn_gate_inp"), (4, 256), False, GgmlType.F32),
        ("output_norm.weight", (256,), False, GgmlType.F32),
    ],
)  # fmt: skip
def test_the_mix_of_q4_k_m(
    name: str, shape: tuple[int, ...], is_head: bool, expected: GgmlType
) -> None:
    assert type_for(recipe_for("q4_k_m"), name, shape, 16, is_head=is_head) is expected
