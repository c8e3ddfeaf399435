"""`printf`: Go's format verbs (package fmt) for the kinds of values that templates have."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from olla.gotemplate.budget import MAX_SIZE
from olla.gotemplate.values import Kind, Refused, bytes_of, kind_of, text_of

MAX_WIDTH = 1000

_VERB = re.compile(
    r"%(?P<flags>[-+# 0]*+)(?P<width>\*|\d++)?(?P<precision>\.(?:\*|\d*+))?"
    r"(?:\[(?P<index>\d{1,3})\])?(?P<verb>.)?",
    re.DOTALL,
)
_BASES = {"b": "b", "o": "o", "x": "x", "X": "X"}


@dataclass(slots=True)
class _Form:
    flags: str
    width: int
    precision: int | None
    verb: str


class _Arguments:
    def __init__(self, values: Sequence[Any]) -> None:
        self._values = values
        self._place = 0
        self._jumps = False
        self._size = 0

    def jump(self, index: str | None) -> None:
        if index is not None:
            self._place = int(index) - 1
            self._jumps = True

    @property
    def is_over(self) -> bool:
        return not 0 <= self._place < len(self._values)

    def charge(self, text: str) -> str:
        """One argument may be written many times."""
        self._size += len(text)
        if self._size > MAX_SIZE:
            raise Refused(f"printf makes more than {MAX_SIZE} characters")
        return text

    def next(self) -> Any:
        self._place += 1
        return self._values[self._place - 1]

    def rest(self) -> Sequence[Any]:
        return () if self._jumps else self._values[self._place :]


def sprintf(template: str, values: Sequence[Any]) -> str:
    """
    Raises:
        Refused: a width is larger than MAX_WIDTH, or the text than MAX_SIZE.
    """
    arguments = _Arguments(values)
    text = _VERB.sub(lambda match: _replace(match, arguments), template)
    if extra := arguments.rest():
        listed = ", ".join(arguments.charge(_typed(value)) for value in extra)
        return f"{text}%!(EXTRA {listed})"
    return text


def _replace(match: re.Match[str], arguments: _Arguments) -> str:
    verb = match["verb"]
    if verb is None:
        return "%!(NOVERB)"
    if verb == "%":
        return "%"
    flags = match["flags"]
    width = _size(match["width"] or "0", arguments)
    precision = None
    if match["precision"]:
        precision = max(0, _size(match["precision"][1:] or "0", arguments))
    if width < 0:
        flags, width = flags + "-", -width
    arguments.jump(match["index"])
    if arguments.is_over:
        return f"%!{verb}({'BADINDEX' if match['index'] else 'MISSING'})"
    return arguments.charge(_format(arguments.next(), _Form(flags, width, precision, verb)))


def _size(text: str, arguments: _Arguments) -> int:
    size: Any = 0
    if text != "*":
        size = int(text[:5])
    elif not arguments.is_over:
        size = arguments.next()
    if not isinstance(size, int) or abs(size) > MAX_WIDTH:
        raise Refused(f"a width in a format is no whole number up to {MAX_WIDTH}")
    return size


def _format(value: Any, form: _Form) -> str:
    text = _verb_text(value, form)
    if text is None:
        return f"%!{form.verb}({_typed(value)})"
    is_number = kind_of(value) in {Kind.INT, Kind.FLOAT}
    if is_number and form.verb not in "qcUT":
        text = _signed(text, form.flags)
    missing = form.width - len(text)
    if "-" in form.flags:
        return text + " " * missing
    if "0" in form.flags and is_number:
        sign = text[:1] if text[:1] in "+-" else ""
        return sign + "0" * missing + text[len(sign) :]
    return " " * missing + text


def _verb_text(value: Any, form: _Form) -> str | None:
    """None where the verb does not go with the value."""
    kind = kind_of(value)
    if form.verb == "T":
        return str(kind)
    if form.verb == "v":
        return _quote(value) if "#" in form.flags and kind is Kind.STRING else text_of(value)
    if kind in {Kind.BOOL, Kind.NIL}:
        return text_of(value) if kind is Kind.BOOL and form.verb == "t" else None
    if kind is Kind.INT:
        return _integer(value, form)
    if kind is Kind.FLOAT:
        return _float(value, form)
    return _string(text_of(value), form)


def _integer(value: int, form: _Form) -> str | None:
    if form.verb == "d":
        return text_of(value)
    if form.verb in _BASES:
        digits = format(abs(value), _BASES[form.verb])
        prefix = {"x": "0x", "X": "0X", "o": "0", "b": "0b"}[form.verb] if "#" in form.flags else ""
        return f"{'-' if value < 0 else ''}{prefix}{digits}"
    if form.verb == "U":
        return f"U+{value:04X}"
    if form.verb in "cq":
        character = chr(value) if 0 <= value < 0xD800 or 0xDFFF < value < 0x110000 else "\ufffd"
        return character if form.verb == "c" else f"'{_quote(character)[1:-1]}'"
    return None


def _float(value: float, form: _Form) -> str | None:
    if form.verb in "eEfF":
        return format(value, f".{6 if form.precision is None else form.precision}{form.verb}")
    if form.verb in "gG":
        text = text_of(value) if form.precision is None else f"{value:.{form.precision or 1}g}"
        return text.upper() if form.verb == "G" else text
    return None


def _string(text: str, form: _Form) -> str | None:
    if form.precision is not None:
        text = text[: form.precision]
    if form.verb == "s":
        return text
    if form.verb == "q":
        return f"`{text}`" if "#" in form.flags and "`" not in text else _quote(text)
    if form.verb in "xX":
        digits = bytes_of(text).hex()
        return digits.upper() if form.verb == "X" else digits
    return None


def _signed(text: str, flags: str) -> str:
    if text[:1] in "+-":
        return text
    return f"+{text}" if "+" in flags else f" {text}" if " " in flags else text


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _typed(value: Any) -> str:
    return "<nil>" if value is None else f"{kind_of(value)}={text_of(value)}"
