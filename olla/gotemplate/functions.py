"""The functions that templates call: Go's own, and those that Ollama adds.

They take values and give values; what they cost is the caller's to charge. `and` and `or`, which
do not look at all of their arguments, are part of the evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any
from urllib.parse import quote_plus

from olla.gotemplate.budget import MAX_SIZE
from olla.gotemplate.printf import sprintf
from olla.gotemplate.values import (
    Kind,
    Refused,
    Struct,
    bytes_of,
    json_text,
    kind_of,
    text_of,
    truth,
)

_BASIC = frozenset({Kind.BOOL, Kind.INT, Kind.FLOAT, Kind.STRING})
_ORDERED = frozenset({Kind.INT, Kind.FLOAT, Kind.STRING})
_HTML = str.maketrans(
    {"<": "&lt;", ">": "&gt;", "&": "&amp;", "'": "&#39;", '"': "&#34;", "\0": "\ufffd"}
)
_JS = str.maketrans(
    {"\\": "\\\\", "'": "\\'", '"': '\\"', "<": "\\u003C", ">": "\\u003E", "&": "\\u0026",
     "=": "\\u003D"}
    | {chr(code): f"\\u{code:04X}" for code in (*range(32), 127)}
)  # fmt: skip
_TYPESCRIPT = {
    "string": "string",
    "number": "number",
    "integer": "number",
    "boolean": "boolean",
    "array": "any[]",
    "object": "Record<string, any>",
    "null": "null",
}


@dataclass(frozen=True, slots=True)
class _Entry:
    call: Callable[..., Any]
    least: int
    most: int | None


def call(name: str, arguments: list[Any], today: date) -> Any:
    """Call a function by its name.

    Raises:
        Refused: it does not take these arguments.
    """
    if name in {"currentDate", "yesterdayDate"}:
        return (today - timedelta(days=name == "yesterdayDate")).isoformat()
    entry = _TABLE[name]
    if len(arguments) < entry.least:
        raise Refused(f"{name} takes at least {entry.least} arguments, and here are "
                      f"{len(arguments)}")  # fmt: skip
    if entry.most is not None and len(arguments) > entry.most:
        raise Refused(f"{name} takes at most {entry.most} arguments, and here are {len(arguments)}")
    return entry.call(*arguments)


def _equal(first: Any, *others: Any) -> bool:
    return any(_are_equal(first, other) for other in others)


def _are_equal(left: Any, right: Any) -> bool:
    kinds = kind_of(left), kind_of(right)
    if Kind.NIL in kinds:
        return left is right
    if kinds[0] is not kinds[1]:
        raise Refused(f"{kinds[0]} and {kinds[1]} cannot be compared")
    if kinds[0] not in _BASIC:
        raise Refused(f"values of type {kinds[0]} cannot be compared")
    return bool(left == right)


def _less(left: Any, right: Any) -> bool:
    kinds = kind_of(left), kind_of(right)
    if kinds[0] is not kinds[1] or kinds[0] not in _ORDERED:
        raise Refused(f"{kinds[0]} and {kinds[1]} have no order")
    if isinstance(left, str):
        return bytes_of(left) < bytes_of(right)
    return bool(left < right)


def _length(value: Any) -> int:
    if isinstance(value, str):
        return len(bytes_of(value))
    if isinstance(value, list | tuple | Mapping):
        return len(value)
    raise Refused(f"a value of type {kind_of(value)} has no length")


def _index(value: Any, *places: Any) -> Any:
    for place in places:
        value = _item(value, place)
    return value


def _item(value: Any, place: Any) -> Any:
    if isinstance(value, Mapping):
        if not isinstance(place, str):
            raise Refused("the key of a map must be text")
        return value.get(place)
    if not isinstance(value, str | list | tuple):
        raise Refused(f"a value of type {kind_of(value)} cannot be indexed")
    items = bytes_of(value) if isinstance(value, str) else value
    return items[_bound(place, len(items) - 1)]


def _slice(value: Any, *bounds: Any) -> Any:
    if not isinstance(value, str | list | tuple):
        raise Refused(f"a value of type {kind_of(value)} cannot be sliced")
    if isinstance(value, str) and len(bounds) > 2:
        raise Refused("text cannot be sliced with three bounds")
    items = bytes_of(value) if isinstance(value, str) else value
    places = [_bound(bound, len(items)) for bound in bounds]
    start, end, *_ = [*places, *(0, len(items))[len(places) :]]
    if places != sorted(places):
        raise Refused("the bounds of a slice are out of order")
    part = items[start:end]
    return part.decode("utf-8", "replace") if isinstance(part, bytes) else part


def _bound(place: Any, most: int) -> int:
    if kind_of(place) is not Kind.INT:
        raise Refused(f"an index must be a whole number, not of type {kind_of(place)}")
    if not 0 <= place <= most:
        raise Refused(f"index {place if abs(place) < 2**63 else 'given'} is out of range")
    return int(place)


def _print(*values: Any) -> str:
    """A space goes between two values of which neither is text."""
    return _join(
        f" {text_of(value)}" if index and _are_both_no_text(values, index) else text_of(value)
        for index, value in enumerate(values)
    )


def _are_both_no_text(values: Sequence[Any], index: int) -> bool:
    return not isinstance(values[index], str) and not isinstance(values[index - 1], str)


def _println(*values: Any) -> str:
    return _join(f" {text_of(value)}" if index else text_of(value)
                 for index, value in enumerate(values)) + "\n"  # fmt: skip


def _join(parts: Iterable[str]) -> str:
    """One large value may be printed many times."""
    kept: list[str] = []
    size = 0
    for part in parts:
        size += len(part)
        if size > MAX_SIZE:
            raise Refused(f"it prints more than {MAX_SIZE} characters")
        kept.append(part)
    return "".join(kept)


def _printf(template: Any, *values: Any) -> str:
    if not isinstance(template, str):
        raise Refused(f"the format of printf must be text, not of type {kind_of(template)}")
    return sprintf(template, values)


def _js(*values: Any) -> str:
    text = _print(*values).translate(_JS)
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _js_escape(char) for char in text)


def _js_escape(char: str) -> str:
    return f"\\u{ord(char):04X}"


def _call(function: Any, *_: Any) -> Any:
    raise Refused(f"a value of type {kind_of(function)} cannot be called")


def _typescript(value: Any) -> str:
    """The TypeScript type of a property of a tool."""
    if not isinstance(value, Struct) or "AnyOf" not in value.fields:
        raise Refused(f"toTypeScriptType takes a property, not a value of type {kind_of(value)}")
    if choices := value.fields["AnyOf"]:
        return _join(f" | {_typescript(choice)}" for choice in choices)[3:]
    types = value.fields["Type"]
    names = (types,) if isinstance(types, str) else types
    return " | ".join(_TYPESCRIPT.get(name, "any") for name in names) or "any"


_TABLE = {
    "not": _Entry(lambda value: not truth(value), 1, 1),
    "eq": _Entry(_equal, 2, None),
    "ne": _Entry(lambda left, right: not _are_equal(left, right), 2, 2),
    "lt": _Entry(_less, 2, 2),
    "le": _Entry(lambda left, right: _less(left, right) or _are_equal(left, right), 2, 2),
    "gt": _Entry(lambda left, right: _less(right, left), 2, 2),
    "ge": _Entry(lambda left, right: not _less(left, right), 2, 2),
    "len": _Entry(_length, 1, 1),
    "index": _Entry(_index, 1, None),
    "slice": _Entry(_slice, 1, 4),
    "print": _Entry(_print, 0, None),
    "println": _Entry(_println, 0, None),
    "printf": _Entry(_printf, 1, None),
    "html": _Entry(lambda *values: _print(*values).translate(_HTML), 0, None),
    "js": _Entry(_js, 0, None),
    "urlquery": _Entry(lambda *values: quote_plus(bytes_of(_print(*values))), 0, None),
    "call": _Entry(_call, 1, None),
    "json": _Entry(json_text, 1, 1),
    "toTypeScriptType": _Entry(_typescript, 1, 1),
}
