"""Bodies: what stands inside a call, gathered until it ends; knows where the end is only text.

A body says which tags to look for now and takes what was found. One ends with a tag that is not
within quotes, the other when all its brackets are closed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from olla.parsers.tags import Tags, tags_of


@dataclass(frozen=True, slots=True)
class Quote:
    """Marks around text in which tags mean nothing. `escapes` are in it and do not close it."""

    opening: str
    closing: str
    escapes: tuple[str, ...] = ()


JSON_STRING = Quote('"', '"', ("\\\\", '\\"'))
SINGLE_QUOTED = Quote("'", "'", ("\\\\", "\\'"))


class Body(Protocol):
    @property
    def text(self) -> str: ...

    @property
    def wanted(self) -> Tags: ...

    def take(self, text: str, tag: str) -> bool:
        """Add text, and the tag behind it; True when the body is complete."""
        ...


class QuotedBody:
    """Ends with one of the tags `ends`, which is not part of its text."""

    def __init__(self, ends: tuple[str, ...], quotes: tuple[Quote, ...]) -> None:
        self._ends = ends
        self._quotes = {quote.opening: quote for quote in quotes}
        self._open: Quote | None = None
        self._parts: list[str] = []

    @property
    def text(self) -> str:
        return "".join(self._parts)

    @property
    def wanted(self) -> Tags:
        if self._open is not None:
            return tags_of(self._open.closing, *self._open.escapes)
        return tags_of(*self._ends, *self._quotes)

    def take(self, text: str, tag: str) -> bool:
        self._parts.append(text)
        if self._open is None and tag in self._ends:
            return True
        self._parts.append(tag)
        if self._open is None:
            self._open = self._quotes.get(tag)
        elif tag == self._open.closing:
            self._open = None
        return False


class BracketBody:
    """Ends when the last bracket that was opened is closed; `ignored` are no brackets."""

    def __init__(self, ignored: tuple[str, ...] = ()) -> None:
        self._outside = tags_of("{", "}", "[", "]", '"', *ignored)
        self._inside_string = tags_of(JSON_STRING.closing, *JSON_STRING.escapes)
        self._is_in_string = False
        self._depth = 0
        self._parts: list[str] = []

    @property
    def text(self) -> str:
        return "".join(self._parts)

    @property
    def wanted(self) -> Tags:
        return self._inside_string if self._is_in_string else self._outside

    def take(self, text: str, tag: str) -> bool:
        self._parts += (text, tag)
        if tag == '"' and self._depth:
            self._is_in_string = not self._is_in_string
        elif not self._is_in_string:
            return self._is_closed_by(tag)
        return False

    def _is_closed_by(self, tag: str) -> bool:
        if tag in {"{", "["}:
            self._depth += 1
        elif tag in {"}", "]"} and self._depth:
            self._depth -= 1
            return self._depth == 0
        return False
