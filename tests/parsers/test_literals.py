"""Literals of Python's and JavaScript's kind are read, and nothing is evaluated."""

from __future__ import annotations

import math
import time

import pytest

from olla.parsers.base import NotACall
from olla.parsers.json_calls import MAX_DEPTH
from olla.parsers.literals import LiteralReader


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("-2.5e3", -2500.0),
        ("+7", 7),
        ("1e999", "1e999"),
        ("True", True),
        ("null", None),
        ("word", "word"),
        ("'a\\'b'", "a'b"),
        ('"\\ud83d\\ude42\\ud800"', "🙂\ufffd"),
        ('"\\x41\\q"', "Aq"),
        ("[]", []),
        ("(1, [2],)", [1, [2]]),
        ("{'a': 1, b: {}}", {"a": 1, "b": {}}),
    ],
)
def test_a_value_is_read(text: str, value: object) -> None:
    reader = LiteralReader(text)

    assert reader.value() == value
    assert reader.is_at_end


@pytest.mark.parametrize(
    "text", ["", "'a", "[1", "{a 1}", "{a:", "<|x|>", "[1 2]", "[" * (MAX_DEPTH + 2)]
)
def test_what_is_no_literal_is_refused(text: str) -> None:
    with pytest.raises(NotACall):
        LiteralReader(text, "<|x|>").value()


def test_text_between_marks_is_kept_as_it_is() -> None:
    assert LiteralReader('§a\\n"}§', "§").value() == 'a\\n"}'


def test_long_text_takes_time_in_proportion() -> None:
    started = time.process_time()

    assert len(LiteralReader("[" + "'\\n', " * 30_000 + "]").value()) == 30_000
    with pytest.raises(NotACall):
        LiteralReader('"' + "\\a" * 100_000).value()

    assert time.process_time() - started < 10
    assert math.isfinite(LiteralReader("9" * 300).value())
