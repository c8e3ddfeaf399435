"""Markdown in colour: what is styled, and that nothing else changes."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from olla.cli.markdown import Markdown

TEXT = "# A title\nSome **bold words** and `co*de`.\n```py\nx = 2 ** 3\n```\nDone, 2**3 ** 4.\n"
_ESCAPE = re.compile(r"\x1b\[(\d+)m")


def styles(printed: str) -> list[tuple[str, str]]:
    """Each character with the style that it is shown in."""
    shown, style = [], "0"
    for part in re.split(r"(\x1b\[\d+m)", printed):
        escape = _ESCAPE.fullmatch(part)
        if escape:
            style = escape[1]
        else:
            shown += [(character, style) for character in part]
    return shown


def styled(text: str, style: str) -> str:
    return "".join(
        character if shown == style else " " if character.isspace() else "."
        for character, shown in styles(Markdown().push(text))
    )


def test_headings_and_bold_words_are_bold() -> None:
    assert styled("# A title", "1") == ". A title"
    assert styled("Some **bold words** and", "1") == ".... ..bold words** ..."


def test_code_has_a_colour_and_knows_no_stars() -> None:
    assert styled("a `co*de` **b**", "36") == ". `co*de` ....."
    assert styled("```py\nx = 2\n```\nend", "36") == "```py x = 2 ``` ..."


@pytest.mark.parametrize("text", ["2**3 and 4**5", "a ** b ** c", "* one\n* two", "f(x) * g", "#1"])
def test_what_only_looks_like_markdown_stays_plain(text: str) -> None:
    assert Markdown().push(text) == text


def test_a_mark_left_open_ends_with_its_line() -> None:
    assert Markdown().push("**a\nb `c\nd") == "**\x1b[1ma\x1b[0m\nb \x1b[36m`c\x1b[0m\nd"


@pytest.mark.parametrize("cut", range(len(TEXT) + 1))
def test_where_the_stream_is_cut_does_not_matter(cut: int) -> None:
    markdown = Markdown()

    assert styles(markdown.push(TEXT[:cut]) + markdown.push(TEXT[cut:])) == styles(
        Markdown().push(TEXT)
    )


@given(st.text(alphabet="*`# \nab"))
def test_no_character_is_lost_and_no_style_outlives_its_piece(text: str) -> None:
    printed = Markdown().push(text)

    assert _ESCAPE.sub("", printed) == text
    assert not printed.endswith(("\x1b[1m", "\x1b[36m"))
