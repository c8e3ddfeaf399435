"""What literals of a template stand for, in Go's spelling. Raises ValueError for what is wrong."""

from __future__ import annotations

import re

MAX_INT = 2**63 - 1

_ESCAPE = re.compile(
    r"""\\(?:
        ([abfnrtv\\'"]) | ([0-7]{3}) | x([0-9a-fA-F]{2})
      | u([0-9a-fA-F]{4}) | U([0-9a-fA-F]{8}) | (.?)
    )""",
    re.VERBOSE | re.DOTALL,
)
_SIMPLE = {"a": 7, "b": 8, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11}
_OCTAL = re.compile(r"([+-]?)0([0-7_]+)")


def number(text: str) -> int | float:
    """An integer of 64 bits, or a float where it is written as one."""
    digits = text.replace("_", "")
    if re.search(r"[.eE]", digits) and "x" not in digits.lower():
        return float(digits)
    octal = _OCTAL.fullmatch(digits)
    value = int(octal[1] + octal[2], 8) if octal else int(digits, 0)
    if not -MAX_INT - 1 <= value <= MAX_INT:
        raise ValueError("the number is too large")
    return value


def string(text: str) -> str:
    """The text between double quotes, with its escapes read."""
    return _unescape(text[1:-1], quote='"')


def character(text: str) -> int:
    """A character in single quotes: Go takes it as its number."""
    value = _unescape(text[1:-1], quote="'")
    if len(value) != 1:
        raise ValueError("there is more than one character")
    return ord(value)


def _unescape(text: str, quote: str) -> str:
    if "\\" not in text:
        return text
    parts: list[bytes] = []
    place = 0
    for match in _ESCAPE.finditer(text):
        parts += [_bytes(text[place : match.start()]), _escape(match, quote)]
        place = match.end()
    return b"".join([*parts, _bytes(text[place:])]).decode("utf-8", "replace")


def _escape(match: re.Match[str], quote: str) -> bytes:
    simple, octal, hexadecimal, short, long, _ = match.groups()
    if simple in {"'", '"'} and simple != quote:
        raise ValueError(f"there is no escape \\{simple} here")
    if simple:
        return bytes([_SIMPLE.get(simple, ord(simple))])
    if octal and int(octal, 8) < 256:
        return bytes([int(octal, 8)])
    if hexadecimal:
        return bytes([int(hexadecimal, 16)])
    if short or long:
        code = int(short or long, 16)
        if code < 0x110000 and not 0xD800 <= code < 0xE000:
            return chr(code).encode()
    raise ValueError(f"there is no escape {match[0]}")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "replace")
