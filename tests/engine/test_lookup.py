"""What came after the same tokens before is proposed again."""

from __future__ import annotations

from olla.engine.lookup import LONGEST_MATCH, Lookup


def test_what_followed_the_same_tokens_is_proposed() -> None:
    proposal = Lookup().propose([1, 2, 3, 4, 5, 9, 1, 2, 3], 2)

    assert proposal is not None
    assert (proposal.tokens, proposal.matched) == ([4, 5], 3)


def test_two_equal_tokens_are_too_few() -> None:
    assert Lookup().propose([1, 2, 3, 9, 1, 2], 2) is None


def test_the_longest_match_wins_over_the_latest() -> None:
    tokens = [7, 8, 1, 2, 3, 4, 0, 1, 2, 3, 5, 7, 8, 1, 2, 3]

    proposal = Lookup().propose(tokens, 1)

    assert proposal is not None
    assert (proposal.tokens, proposal.matched) == ([4], 5)


def test_a_circle_goes_on_as_long_as_is_asked() -> None:
    proposal = Lookup().propose([1, 2] * 10, 7)

    assert proposal is not None
    assert proposal.tokens == [1, 2, 1, 2, 1, 2, 1]
    assert proposal.matched == LONGEST_MATCH


def test_tokens_that_come_later_are_read_too() -> None:
    lookup, tokens = Lookup(), [1, 2, 3, 4]
    assert lookup.propose(tokens, 3) is None

    tokens += [5, 1, 2, 3]
    proposal = lookup.propose(tokens, 3)

    assert proposal is not None
    assert proposal.tokens == [4, 5, 1]


def test_short_beginnings_and_nothing_asked_propose_nothing() -> None:
    assert [Lookup().propose([1] * length, 4) for length in range(4)] == [None] * 4
    assert Lookup().propose([1] * 9, 0) is None
