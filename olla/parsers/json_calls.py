"""Calls written in JSON, and the text between tags that may hold them.

JSON is read as models write it: raw line breaks in strings are taken, values may follow each other
with nothing, commas or semicolons in between. What clients could not read (NaN, infinite numbers,
numbers of more than 4300 digits, deep nesting) is no call.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from olla.json_values import depth_of, without_surrogates
from olla.messages import ToolCall
from olla.parsers.base import NotACall, Tools, new_call

MAX_DEPTH = 64

_BETWEEN = re.compile(r"[\s,;]*")


def read_json_calls(text: str, _tools: Tools = ()) -> tuple[ToolCall, ...]:
    """Objects, or lists of them: `name` (or `tool_name`), and `arguments` or `parameters`.

    Raises:
        NotACall: that is not what is there.
    """
    calls = tuple(_call(item) for value in read_json(text) for item in _items(value))
    if not calls:
        raise NotACall("no call in it")
    return calls


def read_json_object(text: str) -> dict[str, Any]:
    """
    Raises:
        NotACall: there is anything but one object.
    """
    values = list(read_json(text))
    if len(values) != 1 or not isinstance(values[0], dict):
        raise NotACall("not one JSON object")
    return values[0]


def read_json(text: str) -> Iterator[Any]:
    """The values that follow each other in the text.

    Raises:
        NotACall: something else is there, or what no client could read.
    """
    place = _skip(text, 0)
    while place < len(text):
        try:
            value, place = _DECODER.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            raise NotACall("not JSON") from error
        if depth_of(value) > MAX_DEPTH:
            raise NotACall("nested too deeply")
        yield without_surrogates(value)
        place = _skip(text, place)


def arguments_of(call: Mapping[str, Any]) -> dict[str, Any] | None:
    """The arguments of a call, also where they are JSON in a string; None if there are none."""
    value = call.get("arguments", call.get("parameters"))
    if isinstance(value, str):
        try:
            return read_json_object(value)
        except NotACall:
            return None
    return value if isinstance(value, dict) else None


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _call(value: Any) -> ToolCall:
    if not isinstance(value, dict):
        raise NotACall("not a JSON object")
    name = value.get("name") or value.get("tool_name")
    has_arguments = value.get("arguments", value.get("parameters")) is not None
    arguments = arguments_of(value) if has_arguments else {}
    if not isinstance(name, str) or arguments is None:
        raise NotACall("no name, or arguments that are no object")
    return new_call(name, arguments)


def _skip(text: str, place: int) -> int:
    found = _BETWEEN.match(text, place)
    return found.end() if found else place


def _refuse(name: str) -> NoReturn:
    raise NotACall(name)


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse(text)


# strict=False takes raw line breaks in strings.
_DECODER = json.JSONDecoder(strict=False, parse_constant=_refuse, parse_float=_finite)
