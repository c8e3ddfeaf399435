"""Literals: values as Python or JavaScript write them, read from the text of a call.

Strings stand between quotes, or between the marks that a format has of its own; names need no
quotes. Knows no format. Time grows with the length of the text; nesting is limited.
"""

from __future__ import annotations

import math
import re
from typing import Any

from olla.json_values import without_surrogates
from olla.parsers.base import NotACall
from olla.parsers.json_calls import MAX_DEPTH

_SPACE = re.compile(r"\s*")
_NAME = re.compile(r"[^\s,:=\"'<>{}\[\]()]+")
_STRINGS = {
    '"': re.compile(r'"([^"\\]*(?:\\.[^"\\]*)*)"', re.DOTALL),
    "'": re.compile(r"'([^'\\]*(?:\\.[^'\\]*)*)'", re.DOTALL),
}
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|U000[0-9a-fA-F]{5}|x[0-9a-fA-F]{2}|.)", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "0": "\0", "\n": ""}
_WORDS = {"true": True, "false": False, "null": None, "True": True, "False": False, "None": None}
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_CLOSERS = {"[": "]", "(": ")", "{": "}"}
_MAX_DIGITS = 300  # longer ones would be slow to read, or infinite


class LiteralReader:
    """Reads forwards through one text. Every method raises NotACall where the text is not so."""

    def __init__(self, text: str, mark: str = "") -> None:
        """`mark` stands before and after a string in which all is text; "" is none."""
        self._text = text
        self._mark = mark
        self._place = 0

    @property
    def is_at_end(self) -> bool:
        self._skip_space()
        return self._place == len(self._text)

    def accept(self, *tokens: str) -> str:
        """The first of these that comes next, and go past it; "" if none does."""
        self._skip_space()
        for token in tokens:
            if self._text.startswith(token, self._place):
                self._place += len(token)
                return token
        return ""

    def expect(self, token: str) -> None:
        if not self.accept(token):
            raise NotACall(f"no {token} at {self._place}")

    def name(self) -> str:
        """A bare word, such as a function's name."""
        self._skip_space()
        found = _NAME.match(self._text, self._place)
        if found is None:
            raise NotACall(f"no name at {self._place}")
        self._place = found.end()
        return found[0]

    def pairs(self, separator: str, closer: str, depth: int = 0) -> dict[str, Any]:
        """`key=value, key=value` up to and with the closing bracket."""
        values: dict[str, Any] = {}
        while not self.accept(closer):
            key = self._string()
            key = self.name() if key is None else key
            self.expect(separator)
            values[key] = self.value(depth)
            if not self.accept(","):
                self.expect(closer)
                break
        return values

    def value(self, depth: int = 0) -> Any:
        if depth > MAX_DEPTH:
            raise NotACall("nested too deeply")
        text = self._string()
        if text is not None:
            return text
        opener = self.accept(*_CLOSERS)
        if opener == "{":
            return self.pairs(":", "}", depth + 1)
        if opener:
            return self._items(_CLOSERS[opener], depth + 1)
        return _read_word(self.name())

    def _items(self, closer: str, depth: int) -> list[Any]:
        values: list[Any] = []
        while not self.accept(closer):
            values.append(self.value(depth))
            if not self.accept(","):
                self.expect(closer)
                break
        return values

    def _string(self) -> str | None:
        if self._mark and self.accept(self._mark):
            end = self._text.find(self._mark, self._place)
            if end < 0:
                raise NotACall("a string without an end")
            text = self._text[self._place : end]
            self._place = end + len(self._mark)
            return text
        self._skip_space()
        pattern = _STRINGS.get(self._text[self._place : self._place + 1])
        found = pattern.match(self._text, self._place) if pattern else None
        if found is None:
            return None
        self._place = found.end()
        return unescape(found[1])

    def _skip_space(self) -> None:
        found = _SPACE.match(self._text, self._place)
        self._place = found.end() if found else self._place


def unescape(text: str) -> str:
    r"""What a string in quotes means: `\n`, `\u00e9`, `\"`; other escapes are the character."""
    if "\\" not in text:
        return text
    return str(without_surrogates(_ESCAPE.sub(lambda found: _character(found[1]), text)))


def _character(escape: str) -> str:
    if len(escape) > 1:
        return chr(int(escape[1:], 16))
    return _ESCAPES.get(escape, escape)


def _read_word(word: str) -> Any:
    if word in _WORDS:
        return _WORDS[word]
    if len(word) > _MAX_DIGITS or not _NUMBER.fullmatch(word):
        return word
    value = float(word)
    if not math.isfinite(value):
        return word
    return value if set(word) & set(".eE") else int(word)
