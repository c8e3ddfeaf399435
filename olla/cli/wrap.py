"""Word wrap of text that arrives piece by piece on a terminal (spec/cli.md section 4, rule 9).

Where the cut falls between two pieces does not matter. A word already on the screen that turns
out too long for its line is erased there and written again on the next. Escapes take no room, and
the width of the terminal may change meanwhile.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

MARGIN = 5


class WordWrap:
    """`push` gives what to print for the next piece of text."""

    def __init__(self, terminal_width: Callable[[], int]) -> None:
        self._terminal_width = terminal_width
        self._limit = 1
        self._column = 0
        self._word = ""
        self._word_width = 0
        self._is_escape = False

    def push(self, text: str) -> str:
        self._limit = max(1, self._terminal_width() - MARGIN)
        return "".join(map(self._place, text))

    def _place(self, character: str) -> str:
        if self._is_escape or character == "\x1b":
            return self._place_escape(character)
        if character == "\n":
            self._column = 0
            self._end_word()
            return character
        self._column += width(character)
        if character.isspace():
            return self._place_blank(character)
        shown = self._word_width
        self._word += character
        self._word_width += width(character)
        is_whole_line = self._word_width == self._column
        if self._column <= self._limit or is_whole_line:
            return character  # a word as long as the line runs on: there is nothing to gain
        return self._move_word(shown)

    def _place_escape(self, character: str) -> str:
        self._is_escape = not character.isalpha()
        self._word += character
        return character

    def _place_blank(self, blank: str) -> str:
        self._end_word()
        if self._column <= self._limit:
            return blank
        self._column = 0
        return "\n"

    def _move_word(self, shown: int) -> str:
        back = f"\x1b[{shown}D" if shown else ""
        self._column = self._word_width
        return f"{back}\x1b[K\n{self._word}"

    def _end_word(self) -> None:
        self._word, self._word_width = "", 0


def width(text: str) -> int:
    """Cells that the text takes on a terminal."""
    return sum(
        0 if unicodedata.combining(character) else 2 if _is_wide(character) else 1
        for character in text
    )


def _is_wide(character: str) -> bool:
    return unicodedata.east_asian_width(character) in {"W", "F"}
