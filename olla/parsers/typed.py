"""Arguments that come as plain text, typed by the tool's schema (spec/modelfile.md section 6).

Text that its type cannot be read from stays text. Knows no format.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from olla.parsers.base import NotACall, Tools
from olla.parsers.json_calls import read_json

_PRECEDENCE = ("boolean", "integer", "number", "array", "object", "string")


def parameters_of(name: str, tools: Tools) -> Mapping[str, Any]:
    """The properties in the schema of the tool with that name; empty if nothing says."""
    for tool in tools:
        if tool.name == name:
            properties = tool.parameters.get("properties")
            return properties if isinstance(properties, Mapping) else {}
    return {}


def typed(text: str, schema: object) -> Any:
    """What the text means as a value of this JSON schema."""
    text = text.removeprefix("\n").removesuffix("\n")
    types = _types(schema)
    if text.strip().lower() == "null":
        return None
    for kind in _PRECEDENCE:
        if kind in types and kind != "string":
            found, value = _READERS[kind](text.strip())
            if found:
                return value
    return False if types == {"boolean"} else text


def _types(schema: object) -> set[str]:
    if not isinstance(schema, Mapping):
        return set()
    kinds = schema.get("type")
    listed = kinds if isinstance(kinds, list) else [kinds]
    types = {kind for kind in listed if isinstance(kind, str)}
    choices = schema.get("anyOf")
    for choice in choices if isinstance(choices, list) else ():
        types |= _types(choice)
    return types


def _boolean(text: str) -> tuple[bool, Any]:
    word = text.lower()
    return word in {"true", "false"}, word == "true"


def _integer(text: str) -> tuple[bool, Any]:
    found, value = _number(text)
    return found and isinstance(value, int), value


def _number(text: str) -> tuple[bool, Any]:
    """A whole number is an int, however it is written."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False, None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return False, None
    return True, int(value) if value == int(value) else value


def _json(kind: type) -> Any:
    def read(text: str) -> tuple[bool, Any]:
        try:
            values = list(read_json(text))
        except NotACall:
            return False, None
        is_one = len(values) == 1 and isinstance(values[0], kind)
        return is_one, values[0] if is_one else None

    return read


_READERS = {
    "boolean": _boolean,
    "integer": _integer,
    "number": _number,
    "array": _json(list),
    "object": _json(dict),
}
