"""Word wrap of text that arrives piece by piece on a terminal (spec/cli.md section 4, rule 9).

Where the cut falls between two pieces does not matter. A word already on the screen that turns
out too long for its line is erased there and written again on the next.
"""

from __future__ import annotations

import unicodedata

MARGIN = 5


class WordWrap:
    """`push` gives what to print for the next piece of text."""

    def __init__(self, terminal_width: int) -> None:
        self._limit = max(1, terminal_width - MARGIN)
        self._column = 0
        self._word = ""

    def push(self, text: str) -> str:
        return "".join(map(self._place, text))

    def _place(self, character: str) -> str:
        if character == "\n":
            self._column, self._word = 0, ""
            return character
        self._column += width(character)
        if character.isspace():
            return self._place_blank(character)
        self._word += character
        is_whole_line = width(self._word) == self._column
        if self._column <= self._limit or is_whole_line:
            return character  # a word as long as the line runs on: there is nothing to gain
        return self._move_word()

    def _place_blank(self, blank: str) -> str:
        self._word = ""
        if self._column <= self._limit:
            return blank
        self._column = 0
        return "\n"

    def _move_word(self) -> str:
        shown = width(self._word[:-1])
        back = f"\x1b[{shown}D" if shown else ""
        self._column = width(self._word)
        return f"{back}\x1b[K\n{self._word}"


def width(text: str) -> int:
    """Cells that the text takes on a terminal."""
    return sum(
        0 if unicodedata.combining(character) else 2 if _is_wide(character) else 1
        for character in text
    )


def _is_wide(character: str) -> bool:
    return unicodedata.east_asian_width(character) in {"W", "F"}
