"""Word wrap of a stream."""

from __future__ import annotations

import re

import pytest

from olla.cli.wrap import MARGIN, WordWrap

TEXT = "the quick brown fox jumps over the lazy dog\nand a second line"
WIDTH = 20


def on_screen(printed: str) -> list[str]:
    """The lines that a terminal shows, after moving back and erasing as it is told."""
    lines = [""]
    for part in re.findall(r"\x1b\[\d*[A-Z]|\n|[^\x1b\n]+", printed):
        if part == "\n":
            lines.append("")
        elif part.endswith("D") and part.startswith("\x1b"):
            lines[-1] = lines[-1][: -int(part[2:-1])]
        elif part != "\x1b[K":
            lines[-1] += part
    return lines


def test_words_move_to_the_next_line() -> None:
    lines = on_screen(WordWrap(WIDTH).push(TEXT))

    assert [line.rstrip() for line in lines] == [
        "the quick brown",
        "fox jumps over",
        "the lazy dog",
        "and a second",
        "line",
    ]
    assert all(len(line.rstrip()) <= WIDTH - MARGIN for line in lines)


@pytest.mark.parametrize("cut", range(len(TEXT) + 1))
def test_where_the_stream_is_cut_does_not_matter(cut: int) -> None:
    wrap = WordWrap(WIDTH)

    assert wrap.push(TEXT[:cut]) + wrap.push(TEXT[cut:]) == WordWrap(WIDTH).push(TEXT)


def test_a_word_longer_than_the_line_runs_on() -> None:
    assert WordWrap(WIDTH).push("x" * 50) == "x" * 50


def test_wide_characters_count_twice() -> None:
    printed = WordWrap(15).push("日本 語字語字")

    assert printed == "日本 語字\x1b[4D\x1b[K\n語字語字"
