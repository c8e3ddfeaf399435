"""The types that weights can be written in, as users name them, in any case."""

from __future__ import annotations

from olla.errors import BadInput

GGUF_TYPES = (
    *("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"),
    *("Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K"),
)
GGUF_ALIASES = {"Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M", "INT4": "Q4_1"}
PACKED_TYPES = ("nf4", "int8")
"""Those of bitsandbytes, for repositories."""


def is_packed_type(text: str) -> bool:
    return text.lower() in PACKED_TYPES


def gguf_type(text: str) -> str:
    """The one of GGUF_TYPES that is meant, "" for none of them."""
    name = text.upper()
    name = GGUF_ALIASES.get(name, name)
    return name if name in GGUF_TYPES else ""


def check_quantization(text: str) -> None:
    """
    Raises:
        BadInput: it is no type that olla writes.
    """
    if not (gguf_type(text) or is_packed_type(text)):
        known = ", ".join((*GGUF_TYPES, "INT4", *map(str.upper, PACKED_TYPES)))
        raise BadInput(f"unsupported quantization type {text} - supported types are {known}")


def check_draft_quantization(text: str) -> None:
    """
    Raises:
        BadInput: it is no type that olla writes the one GGUF file of a draft model in.
    """
    check_quantization(text)
    if is_packed_type(text):
        raise BadInput(
            f"a DRAFT model is a GGUF file, which has no type {text.upper()}: take Q8_0 or Q4_K_M"
        )
