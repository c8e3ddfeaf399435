"""The names that peft and GGUF give a LoRA's tensors: which module each is of, and what of it.

Knows names alone; shapes and numbers are the readers' matter.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from olla.errors import FormatError
from olla.formats.tensor_names import hf_name

PAIRS = (("lora_A.weight", "lora_B.weight"), ("lora_embedding_A", "lora_embedding_B"))
"""The two matrices of a low-rank product: a linear's, and an embedding's."""
LORA_BIAS = "lora_B.bias"
MAGNITUDE = "lora_magnitude_vector"
TOKENS = "token_adapter.trainable_tokens_delta"

_PREFIX = "base_model.model."
_NAME = re.compile(
    rf"{re.escape(_PREFIX)}(?P<module>(?!.*\.lora_.*\..*\.).+?)(?P<base>\.base_layer)?\."
    r"(?P<what>lora_[AB]\.weight|lora_B\.bias|lora_embedding_[AB]|"
    rf"{MAGNITUDE}|{MAGNITUDE}\.weight|{re.escape(TOKENS)}|weight|bias)"
)
# Biases of whole modules, which stand under the modules' own names too.
_TWICE = re.compile(r".+\.(modules_to_save|original_module)\..+")
# peft wraps a module once for each of its parameters that an adapter changes.
_STACK = re.compile(r"(?P<experts>.+\.experts)(\.base_layer)*")
_GGUF_NAME = re.compile(r"(?P<weight>.+\.weight)\.lora_(?P<side>[ab])")


class LoraName(NamedTuple):
    """`what`: one of the names above, or "weight" or "bias" for a whole parameter.

    `is_needless`: the base's own weight beside a LoRA, or what is there under another name too.
    """

    module: str
    what: str
    is_needless: bool


def parse_lora_name(name: str) -> LoraName | None:
    """None for what is no part of a LoRA that peft saves."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    module, base, what = match["module"], match["base"] or "", match["what"]
    is_needless = (base and what == "weight") or _TWICE.fullmatch(name)
    if what.startswith(MAGNITUDE):
        what = MAGNITUDE
    # A pair beside a wrapped module's own is another's: of experts, which peft wraps twice.
    return LoraName(module + base * what.startswith("lora_"), what, bool(is_needless))


def expert_stack(module: str) -> str | None:
    """The experts that a pair for all of a layer's is of; None for any other module."""
    match = _STACK.fullmatch(module)
    return match["experts"] if match else None


def gguf_pairs(names: Iterable[str], architecture: str) -> Mapping[str, tuple[str, str]]:
    """Module -> the tensors of its two matrices, lora_a and lora_b, among all of a GGUF adapter.

    Raises:
        FormatError: there are none, one lacks the other, or one is of another kind.
    """
    found: dict[str, dict[str, str]] = {}
    for name in names:
        match = _GGUF_NAME.fullmatch(name)
        if match is None:
            raise FormatError(f"{name} is not supported: only lora_a and lora_b are")
        weight = hf_name(architecture, match["weight"])
        if weight is None:
            raise FormatError(f"adapters on {match['weight']} of {architecture} are not supported")
        found.setdefault(weight.removesuffix(".weight"), {})[match["side"]] = name
    if not found:
        raise FormatError("the adapter holds no LoRA weights")
    for module, sides in found.items():
        if len(sides) < 2:
            raise FormatError(f"the adapter's {module} lacks its lora_a or lora_b")
    return {module: (sides["a"], sides["b"]) for module, sides in found.items()}
