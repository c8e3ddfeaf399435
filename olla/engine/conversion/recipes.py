"""Which type each tensor of a GGUF file gets, for every quantization that olla makes.

The mixes are llama.cpp's own, so that a name means what it means there: the head, and in the K
mixes the values and the way down of some layers, are kept in more bits. Columns that are not
whole blocks take the next larger type that fits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from olla.errors import BadInput
from olla.formats.ggml_types import FILE_TYPES, GgmlType
from olla.quantization import check_quantization, gguf_type

G = GgmlType


@dataclass(frozen=True, slots=True)
class Recipe:
    """`base` for most matrices, `better` for those that matter more, `head` for the head."""

    file_type: int
    base: GgmlType
    better: GgmlType
    head: GgmlType
    few_are_better: bool = False


def _recipe(
    name: str, base: G, better: G | None = None, head: G | None = None, *, few: bool = False
) -> tuple[str, Recipe]:
    number = next(number for number, known in FILE_TYPES.items() if known == name)
    return name, Recipe(number, base, better or base, head or base, few)


RECIPES: Mapping[str, Recipe] = dict(
    (
        _recipe("F32", G.F32),
        _recipe("F16", G.F16),
        _recipe("BF16", G.BF16),
        _recipe("Q8_0", G.Q8_0),
        _recipe("Q4_0", G.Q4_0, head=G.Q6_K),
        _recipe("Q4_1", G.Q4_1, head=G.Q6_K),
        _recipe("Q5_0", G.Q5_0, head=G.Q6_K),
        _recipe("Q5_1", G.Q5_1, head=G.Q6_K),
        _recipe("Q4_K_S", G.Q4_K, G.Q5_K, G.Q6_K, few=True),
        _recipe("Q4_K_M", G.Q4_K, G.Q6_K, G.Q6_K),
        _recipe("Q5_K_S", G.Q5_K, head=G.Q6_K),
        _recipe("Q5_K_M", G.Q5_K, G.Q6_K, G.Q6_K),
        _recipe("Q6_K", G.Q6_K),
    )
)

_LARGER = {
    G.Q4_K: G.Q5_0, G.Q5_K: G.Q5_1, G.Q6_K: G.Q8_0,
    G.Q4_0: G.F16, G.Q4_1: G.F16, G.Q5_0: G.F16, G.Q5_1: G.F16, G.Q8_0: G.F16,
}  # fmt: skip
_BETTER = (".attn_v.weight", ".ffn_down.weight", ".ffn_down_exps.weight")
_KEPT = ("ffn_gate_inp.weight", "position_embd.weight")  # llama.cpp adds up with them in floats


def recipe_for(text: str) -> Recipe:
    """The recipe that a user calls by this name, in any case.

    Raises:
        BadInput: there is none.
    """
    check_quantization(text)
    name = gguf_type(text)
    if not name:
        raise BadInput(f"{text} has no form in GGUF: it is written with --format hf")
    return RECIPES[name]


def type_for(
    recipe: Recipe, name: str, shape: tuple[int, ...], num_layers: int, *, is_head: bool
) -> GgmlType:
    """The type of a tensor, by its name in GGUF; vectors are never quantized."""
    if len(shape) < 2 or name.endswith(_KEPT):
        return G.F32
    kind = recipe.head if is_head else recipe.base
    if name.endswith(_BETTER) and _is_better(recipe, int(name.split(".")[1]), num_layers):
        kind = recipe.better
    while shape[-1] % kind.block_elements:
        kind = _LARGER[kind]
    return kind


def _is_better(recipe: Recipe, layer: int, num_layers: int) -> bool:
    """The first and the last eighth, and every third between; or only the first of them."""
    eighth = num_layers // 8
    if recipe.few_are_better:
        return layer < max(eighth, 1)
    return layer < eighth or layer >= 7 * num_layers // 8 or (layer - eighth) % 3 == 2
