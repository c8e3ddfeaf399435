"""Template text -> tokens. Knows Go's spelling, not its grammar.

Whitespace that trim markers take away, and comments, are gone here. Invariant: the time is
proportional to the text, so no pattern may try one place twice.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from enum import StrEnum
from typing import NamedTuple

from olla.errors import TemplateError

MAX_TEMPLATE_CHARS = 128 * 1024

_SPACES = " \t\r\n"
_OPENING = re.compile(r"\{\{(-(?=[ \t\r\n]))?")
_COMMENT = re.compile(r"[ \t\r\n]*+/\*")
_COMMENT_END = re.compile(r"[ \t\r\n]*+(-?)\}\}")
_ACTION = re.compile(
    r"""
    (?P<close>(?:[ \t\r\n]++(?P<trim>-))?\}\})
  | (?P<space>[ \t\r\n]++)
  | (?P<number>[+-]?(?:
        0[xX][0-9a-fA-F_]++ | 0[bB][01_]++ | 0[oO][0-7_]++
      | (?:[0-9][0-9_]*+(?:\.[0-9_]*+)? | \.[0-9][0-9_]*+)(?:[eE][+-]?[0-9_]++)?
    )(?![\w.]))
  | (?P<field>\.[^\W\d]\w*+)
  | (?P<variable>\$\w*+)
  | (?P<name>[^\W\d]\w*+)
  | (?P<string>"(?:[^"\\\n]++|\\[^\n])*+")
  | (?P<raw>`[^`]*+`)
  | (?P<char>'(?:[^'\\\n]++|\\[^\n])++')
  | (?P<declare>:=)
  | (?P<dot>\.) | (?P<assign>=) | (?P<pipe>\|) | (?P<comma>,) | (?P<left>\() | (?P<right>\))
    """,
    re.VERBOSE,
)
_UNCLOSED = {'"': "unterminated string", "`": "unterminated string", "'": "unterminated character"}


class Kind(StrEnum):
    TEXT = "text"
    OPEN = "open"
    CLOSE = "close"
    NUMBER = "number"
    FIELD = "field"
    VARIABLE = "variable"
    NAME = "name"
    STRING = "string"
    RAW = "raw"
    CHAR = "char"
    DECLARE = "declare"
    DOT = "dot"
    ASSIGN = "assign"
    PIPE = "pipe"
    COMMA = "comma"
    LEFT = "left"
    RIGHT = "right"
    END = "end"


class Token(NamedTuple):
    """`spaced`: whitespace stands before it, which tells `.A .B` from `.A.B`."""

    kind: Kind
    text: str
    offset: int
    spaced: bool = False


def error_at(text: str, offset: int, what: str) -> TemplateError:
    """The error that something is wrong at this place of the template."""
    line = text.count("\n", 0, offset) + 1
    column = offset - text.rfind("\n", 0, offset)
    return TemplateError(f"template error: line {line} column {column}: {what}")


def tokenize(text: str) -> Iterator[Token]:
    """Read a template; the last token is END.

    Raises:
        TemplateError: it is too long, or something in an action is not spelt as Go does.
    """
    if len(text) > MAX_TEMPLATE_CHARS:
        raise TemplateError(f"template error: it is longer than {MAX_TEMPLATE_CHARS} characters")
    place, is_trimmed = 0, False
    while opening := _OPENING.search(text, place):
        yield from _text(text, place, opening.start(), is_trimmed, opening[1] is not None)
        if comment := _COMMENT.match(text, opening.end()):
            place, is_trimmed = _skip_comment(text, opening.start(), comment.end())
        else:
            yield Token(Kind.OPEN, opening[0], opening.start())
            place, is_trimmed = yield from _action(text, opening.end())
    yield from _text(text, place, len(text), is_trimmed, False)
    yield Token(Kind.END, "", len(text))


def _text(text: str, start: int, end: int, trim_left: bool, trim_right: bool) -> Iterator[Token]:
    piece = text[start:end]
    if trim_left:
        piece = piece.lstrip(_SPACES)
    if trim_right:
        piece = piece.rstrip(_SPACES)
    if piece:
        yield Token(Kind.TEXT, piece, start)


def _skip_comment(text: str, start: int, inside: int) -> tuple[int, bool]:
    end = text.find("*/", inside)
    if end < 0:
        raise error_at(text, start, "unclosed comment")
    closing = _COMMENT_END.match(text, end + 2)
    if closing is None:
        raise error_at(text, start, "a comment must be alone in its action")
    return closing.end(), bool(closing[1])


def _action(text: str, place: int) -> Generator[Token, None, tuple[int, bool]]:
    """The tokens of one action; returns where it ends and whether it trims what follows."""
    is_spaced = False
    while match := _ACTION.match(text, place):
        kind = match.lastgroup if match["close"] is None else "close"
        if kind == "space":
            is_spaced = True
        else:
            yield Token(Kind(str(kind)), match[0], place, is_spaced)
            is_spaced = False
        place = match.end()
        if kind == "close":
            return place, match["trim"] is not None
    if place == len(text):
        raise error_at(text, place, "unclosed action")
    raise error_at(text, place, _UNCLOSED.get(text[place], f"unexpected {text[place]!r}"))
