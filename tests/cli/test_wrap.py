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
    lines = on_screen(WordWrap(lambda: WIDTH).push(TEXT))

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
    wrap = WordWrap(lambda: WIDTH)

    assert wrap.push(TEXT[:cut]) + wrap.push(TEXT[cut:]) == WordWrap(lambda: WIDTH).push(TEXT)


def test_a_word_longer_than_the_line_runs_on() -> None:
    assert WordWrap(lambda: WIDTH).push("x" * 50) == "x" * 50


def test_wide_characters_count_twice() -> None:
    printed = WordWrap(lambda: 15).push("日本 語字語字")

    assert printed == "日本 語字\x1b[4D\x1b[K\n語字語字"


def test_escapes_take_no_room_and_move_with_their_word() -> None:
    bold, plain = "\x1b[1m", "\x1b[0m"

    printed = WordWrap(lambda: 15).push(f"{bold}one{plain} {bold}twotwo!{plain}")

    moved = f"\x1b[6D\x1b[K\n{bold}twotwo!{plain}"
    assert printed == f"{bold}one{plain} {bold}twotwo{moved}"


def test_a_resize_counts_from_the_next_piece_on() -> None:
    widths = iter([40, 15])
    wrap = WordWrap(lambda: next(widths))

    assert wrap.push("one two three") == "one two three"
    assert wrap.push(" four") == "\nfour"
