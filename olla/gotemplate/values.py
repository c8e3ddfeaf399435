"""The data of a template as Go sees it: kinds, truth, and how values are printed.

Python's None, bool, int, float, str, lists and tuples, and mappings with text keys stand for
Go's; Struct, JsonList and JsonMap for the types that Ollama defines. Functions raise Refused
where Go would fail; who calls them knows the place in the template.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Any

MAX_NESTING = 64
MAX_INT_BITS = 1024

_EXPONENT_FROM = 21
_SMALLEST_EXPONENT = -4
_SMALLEST_JSON_EXPONENT = -6
_JSON_ESCAPES = {
    ord("<"): "\\u003c", ord(">"): "\\u003e", ord("&"): "\\u0026",
    0x2028: "\\u2028", 0x2029: "\\u2029",
}  # fmt: skip


class Refused(Exception):
    """A value cannot do what the template asks of it. The text lacks the place."""


class Kind(StrEnum):
    """`str(kind)` is Go's name of the type."""

    NIL = "<nil>"
    BOOL = "bool"
    INT = "int"
    FLOAT = "float64"
    STRING = "string"
    LIST = "[]interface {}"
    MAP = "map[string]interface {}"
    STRUCT = "struct"


@dataclass(frozen=True, slots=True, eq=False)
class Struct:
    """Named fields, and what is printed for them: `document` as JSON, its keys in this order."""

    fields: Mapping[str, Any]
    document: Mapping[str, Any]


class JsonList(tuple[Any, ...]):
    """A list that prints as JSON."""

    __slots__ = ()


class JsonMap(dict[str, Any]):
    """A mapping that prints as JSON."""


def kind_of(value: object) -> Kind:
    for types, kind in _KINDS:
        if isinstance(value, types):
            return kind
    raise Refused(f"a value of type {type(value).__name__} has no place in a template")


_KINDS: tuple[tuple[Any, Kind], ...] = (
    (str, Kind.STRING),
    (bool, Kind.BOOL),
    (int, Kind.INT),
    (float, Kind.FLOAT),
    (type(None), Kind.NIL),
    ((list, tuple), Kind.LIST),
    (Mapping, Kind.MAP),
    (Struct, Kind.STRUCT),
)


def truth(value: object) -> bool:
    """Not zero and not empty; a struct is always true."""
    return isinstance(value, Struct) or bool(value)


def text_of(value: object, depth: int = 0) -> str:
    """The value as `%v` prints it."""
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, int | float):
        return _scalar_text(value)
    if isinstance(value, Struct | JsonList | JsonMap):
        return json_text(value, depth)
    _check_depth(depth)
    if isinstance(value, Mapping):
        pairs = (f"{key}:{text_of(value[key], depth + 1)}" for key in sorted(value))
        return f"map[{' '.join(pairs)}]"
    if isinstance(value, list | tuple):
        return f"[{' '.join(text_of(item, depth + 1) for item in value)}]"
    raise Refused(f"a value of type {type(value).__name__} cannot be printed")


def json_text(value: object, depth: int = 0) -> str:
    """Compact JSON as Go writes it: maps by key, and `<`, `>` and `&` escaped."""
    _check_depth(depth)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).translate(_JSON_ESCAPES)
    if value is None or isinstance(value, int | float):
        return _json_scalar(value)
    if isinstance(value, Struct):
        return _json_object(value.document, list(value.document), depth)
    if isinstance(value, Mapping):
        return _json_object(value, sorted(value), depth)
    if isinstance(value, list | tuple):
        return f"[{','.join(json_text(item, depth + 1) for item in value)}]"
    raise Refused(f"a value of type {type(value).__name__} cannot be written as JSON")


def float_text(value: float, smallest: int = _SMALLEST_EXPONENT) -> str:
    """The shortest digits that read as this number; with an exponent where it is far from 1."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    exact = Decimal(repr(value))
    exponent = exact.adjusted() if value else 0
    if smallest <= exponent < _EXPONENT_FROM:
        text = f"{exact:f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    sign, digits, _ = exact.as_tuple()
    text = "".join(map(str, digits)).rstrip("0")
    point = "." if text[1:] else ""
    return f"{'-' if sign else ''}{text[0]}{point}{text[1:]}e{exponent:+03d}"


def bytes_of(text: str) -> bytes:
    """Go counts and cuts text in bytes."""
    return text.encode("utf-8", "replace")


def _scalar_text(value: float | None) -> str:
    if value is None:
        return "<nil>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return float_text(value)
    if value.bit_length() > MAX_INT_BITS:
        raise Refused("a number is too large")
    return str(value)


def _json_scalar(value: float | None) -> str:
    if not isinstance(value, float):
        return "null" if value is None else _scalar_text(value)
    if not math.isfinite(value):
        raise Refused(f"JSON has no number {float_text(value)}")
    return float_text(value, _SMALLEST_JSON_EXPONENT).replace("e-0", "e-")


def _json_object(values: Mapping[str, Any], keys: list[str], depth: int) -> str:
    pairs = (f"{json_text(key)}:{json_text(values[key], depth + 1)}" for key in keys)
    return f"{{{','.join(pairs)}}}"


def _check_depth(depth: int) -> None:
    if depth > MAX_NESTING:
        raise Refused(f"a value is nested more than {MAX_NESTING} deep")
