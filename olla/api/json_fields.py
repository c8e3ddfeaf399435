"""Request bodies as Go's encoding/json reads them: one object, its fields by name in any case.

Knows JSON and the words of Go's errors, but no request. Unknown fields are ignored, null is
"not set", the last of two equal names wins, and what follows the first value is not read.
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn, TypeGuard, TypeVar

from olla.errors import BadInput
from olla.json_values import without_surrogates

_T = TypeVar("_T")
_WHITESPACE = " \t\r\n"


class Fields:
    """The fields of one JSON object; `where` is its place in Go's words, for the errors."""

    def __init__(self, values: dict[str, Any], where: str) -> None:
        self._values = {name.lower(): value for name, value in values.items()}
        self._where = where

    def raw(self, name: str) -> Any:
        """The value as it stands; None when it is absent or null."""
        return self._values.get(name.lower())

    def text(self, name: str) -> str:
        return self._read(name, str, "string", "")

    def flag(self, name: str, default: bool = False) -> bool:
        return self._read(name, bool, "bool", default)

    def integer(self, name: str) -> int:
        return self._read(name, int, "int", 0)

    def number(self, name: str, default: float) -> float:
        value = self.raw(name)
        if value is None or type(value) in {int, float}:
            return default if value is None else float(value)
        return self._expect(name, value, float, "float64")

    def object(self, name: str, go_type: str = "map[string]interface {}") -> dict[str, Any]:
        return self._read(name, dict, go_type, {})

    def child(self, name: str, go_type: str) -> Fields:
        return Fields(self.object(name, go_type), f"{self._where}.{name}")

    def objects(self, name: str, go_type: str) -> tuple[Fields, ...]:
        where = f"{self._where}.{name}"
        return tuple(Fields(item, where) for item in self._items(name, dict, go_type))

    def texts(self, name: str) -> tuple[str, ...]:
        return self._items(name, str, "string")

    def integers(self, name: str) -> tuple[int, ...]:
        return self._items(name, int, "int")

    def text_map(self, name: str) -> dict[str, str]:
        values = self.object(name, "map[string]string")
        return {key: self._expect(name, value, str, "string") for key, value in values.items()}

    def _items(self, name: str, kind: type[_T], go_type: str) -> tuple[_T, ...]:
        items: list[Any] = self._read(name, list, f"[]{go_type}", [])
        return tuple(self._expect(name, item, kind, go_type) for item in items)

    def _read(self, name: str, kind: type[_T], go_type: str, default: _T) -> _T:
        value = self.raw(name)
        return default if value is None else self._expect(name, value, kind, go_type)

    def _expect(self, name: str, value: Any, kind: type[_T], go_type: str) -> _T:
        if _is_kind(value, kind):
            return value
        raise BadInput(
            f"json: cannot unmarshal {_kind(value)} into Go struct field "
            f"{self._where}.{name} of type {go_type}"
        )


def parse_fields(body: bytes, struct: str, *, if_empty: str = "missing request body") -> Fields:
    """Read the object that `body` starts with; `struct` is the Go name of the request's type.

    `if_empty`: what is said of a body that is not there; "EOF" on the /v1 routes.

    Raises:
        BadInput: no body, no JSON, or JSON that is not an object.
    """
    text = body.decode("utf-8", errors="replace")  # as Go does
    start = len(text) - len(text.lstrip(_WHITESPACE))
    if start == len(text):
        raise BadInput(if_empty)
    value, _ = _decode(text, start)
    if value is None:
        return Fields({}, struct)
    if not isinstance(value, dict):
        raise BadInput(f"json: cannot unmarshal {_kind(value)} into Go value of type api.{struct}")
    return Fields(value, struct)


def parse_object(text: str) -> dict[str, Any]:
    """The JSON object that `text` is.

    Raises:
        BadInput: it is none, or more than one value.
    """
    text = text.strip(_WHITESPACE)
    value, end = _decode(text, 0)
    if not isinstance(value, dict) or end < len(text):
        raise BadInput("expected one JSON object")
    return value


def go_type(value: object) -> str:
    """The Go type that a JSON value of any type is read into."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "float64"
    types: dict[type, str] = {
        str: "string",
        list: "[]interface {}",
        dict: "map[string]interface {}",
    }
    return types.get(type(value), "<nil>")


def _decode(text: str, start: int) -> tuple[Any, int]:
    """The value at `start`, and where it ends."""
    decoder = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_parse_float)
    try:
        value, end = decoder.raw_decode(text, start)
        return without_surrogates(value) if "\\u" in text[start:end] else value, end
    except json.JSONDecodeError as error:
        raise BadInput(_syntax_error(text, error)) from error
    except ValueError as error:  # Python reads no integer of more than 4300 digits
        raise BadInput("json: number out of range") from error
    except RecursionError as error:
        raise BadInput("exceeded max depth") from error


def _syntax_error(text: str, error: json.JSONDecodeError) -> str:
    if error.pos >= len(text) or error.msg.startswith("Unterminated string"):
        return "unexpected EOF"
    character = text[error.pos]
    if error.msg == "Expecting value":
        return f"invalid character '{character}' looking for beginning of value"
    return f"invalid character '{character}' at offset {error.pos}"


def _refuse_constant(name: str) -> NoReturn:
    raise BadInput(f"invalid character '{name[0]}' looking for beginning of value")


def _parse_float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise BadInput(f"json: cannot unmarshal number {text} into Go value of type float64")
    return value


def _is_kind(value: Any, kind: type[_T]) -> TypeGuard[_T]:
    if isinstance(value, bool):
        return kind is bool
    if kind is int:
        return isinstance(value, int) and -(2**63) <= value < 2**63
    return isinstance(value, kind)


def _kind(value: Any) -> str:
    """What Go calls a JSON value; numbers are quoted."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return f"number {json.dumps(value)}"
    kinds: dict[type, str] = {str: "string", list: "array", dict: "object"}
    return kinds.get(type(value), "null")
