"""A stop string ends the reply, wherever the stream is cut, and no part of it shows."""

from __future__ import annotations

import pytest

from olla.engine.stops import StopScanner

REPLY = "one <|en two <|end|> three"


@pytest.mark.parametrize("cut", range(len(REPLY) + 1))
@pytest.mark.parametrize("second", range(0, len(REPLY) + 1, 5))
def test_where_the_stream_is_cut_does_not_matter(cut: int, second: int) -> None:
    scanner = StopScanner(["<|end|>", "unseen"])
    first, last = sorted((cut, second))

    shown = [scanner.push(part) for part in (REPLY[:first], REPLY[first:last], REPLY[last:])]

    assert "".join(shown) == "one <|en two "
    assert scanner.stopped


def test_what_could_become_a_stop_string_is_held_back() -> None:
    scanner = StopScanner(["END"])

    assert scanner.push("the E") == "the "
    assert scanner.push("N") == ""
    assert scanner.push("x") == "ENx"


def test_held_text_is_shown_when_the_reply_ends() -> None:
    scanner = StopScanner(["END"])

    assert scanner.push("the EN") + scanner.finish() == "the EN"
    assert not scanner.stopped


def test_the_first_of_several_stop_strings_wins() -> None:
    scanner = StopScanner(["later", "now"])

    assert scanner.push("before now and later") == "before "


def test_an_empty_stop_string_stops_nothing() -> None:
    scanner = StopScanner([""])

    assert scanner.push("text") == "text"
    assert not scanner.stopped
