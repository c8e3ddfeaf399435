"""Markdown that is coloured while it arrives: headings, bold text and code.

Every character stays where it is, so what is copied from the screen is what the model wrote, and
text that only looks like markdown loses nothing. Each word carries its style by itself, since
the word wrap may write it again on the next line.
"""

from __future__ import annotations

import re
from itertools import groupby

_BOLD, _CODE, _PLAIN = "\x1b[1m", "\x1b[36m", "\x1b[0m"
_HEADING = re.compile(r" {0,3}#{1,6} ")
_FENCE = "```"


class Markdown:
    """`push` gives the next piece of text with its styles; where it is cut does not matter."""

    def __init__(self) -> None:
        self._line = ""
        self._is_fenced = False
        self._is_code = False
        self._is_bold = False
        self._may_open = False  # after "**": bold begins unless a blank follows

    def push(self, text: str) -> str:
        styled = [(self._style(character), character) for character in text]
        return "".join(
            _paint(style, "".join(character for _, character in run))
            for style, run in groupby(styled, key=lambda pair: pair[0])
        )

    def _style(self, character: str) -> str:
        if character == "\n":
            self._end_line()
            return ""
        before = self._line
        self._line += character
        style = self._style_within(before, character)
        return "" if character.isspace() else style

    def _end_line(self) -> None:
        self._is_fenced ^= self._line.lstrip().startswith(_FENCE)
        self._line = ""
        self._is_code = self._is_bold = self._may_open = False

    def _style_within(self, before: str, character: str) -> str:
        if self._is_fenced or self._line.lstrip().startswith(_FENCE):
            return _CODE
        if character == "`" or self._is_code:
            self._is_code ^= character == "`"
            return _CODE
        if character == "*" and before.endswith("*"):
            return self._mark_bold(before)
        if self._may_open:
            self._is_bold, self._may_open = not character.isspace(), False
        return _BOLD if self._is_bold or _HEADING.match(self._line) else ""

    def _mark_bold(self, before: str) -> str:
        """The second star ends bold text, or may begin it where a word may begin: not in `2**3`."""
        if self._is_bold:
            self._is_bold = False
            return _BOLD
        self._may_open = not before[-2:-1].isalnum()
        return ""


def _paint(style: str, text: str) -> str:
    return f"{style}{text}{_PLAIN}" if style else text
