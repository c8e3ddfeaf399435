"""Replies that never end are told from long ones."""

from __future__ import annotations

import random

import pytest

from olla.engine.loops import (
    MAX_EQUAL_PIECES,
    MIN_LOOP_TOKENS,
    MIN_PERIODS,
    EqualPieces,
    TokenLoop,
)


def test_a_piece_may_follow_itself_so_often_and_no_more() -> None:
    pieces = EqualPieces()

    said = [pieces.push(text) for text in [" the", "the\n"] * 16]

    assert said == [False] * (MAX_EQUAL_PIECES + 1) + [True]


def test_another_piece_starts_the_count_anew() -> None:
    pieces = EqualPieces()

    assert not any(pieces.push(text) for text in (["a"] * 30 + ["b"]) * 3)


def first_told(tokens: list[int]) -> int | None:
    """How many tokens it takes until the loop is told."""
    loop = TokenLoop()
    return next((place for place, token in enumerate(tokens, 1) if loop.push(token)), None)


@pytest.mark.parametrize("period", [1, 2, 31, 32, 33, 100, 128])
def test_a_loop_is_told_once_it_is_long_enough(period: int) -> None:
    beginning, circle = list(range(1000, 1100)), list(range(period))
    least = max(MIN_LOOP_TOKENS, MIN_PERIODS * period)

    told = first_told(beginning + circle * 10_000)

    assert told is not None
    assert least <= told - len(beginning) <= least + 256


def test_nothing_shorter_is_a_loop() -> None:
    circle = list(range(20))

    assert first_told((circle * (MIN_LOOP_TOKENS // 20 - 1) + [99]) * 5) is None


def test_a_varied_text_is_no_loop() -> None:
    chance = random.Random(0)

    assert first_told([chance.randrange(3) for _ in range(20_000)]) is None


def test_a_long_period_is_left_alone() -> None:
    assert first_told(list(range(129)) * 200) is None
