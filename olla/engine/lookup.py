"""Lookup: what may come next, going by what came after the same tokens before (prompt look-up).

Knows one sequence's token ids. A proposal is a guess that costs next to nothing to make.
"""

from __future__ import annotations

from collections.abc import Sequence as Tokens
from typing import NamedTuple

GRAM = 3
"""So many tokens have to be the same: fewer mean little."""
LONGEST_MATCH = 16
_PLACES_LOOKED_AT = 8


class Proposal(NamedTuple):
    """`tokens` may come next; the last `matched` ones before them, counted up to a bound, came
    before them the other time too.
    """

    tokens: list[int]
    matched: int


class Lookup:
    """Follows one sequence, whose tokens only grow at the end."""

    def __init__(self) -> None:
        self._places: dict[tuple[int, ...], list[int]] = {}
        self._num_read = 0

    def propose(self, tokens: Tokens[int], count: int) -> Proposal | None:
        """Up to `count` tokens that may follow `tokens`; None if nothing like it came before."""
        self._read(tokens)
        places = self._places.get(tuple(tokens[-GRAM:]), ())
        if not places or count < 1:
            return None
        recent = places[-1 : -_PLACES_LOOKED_AT - 1 : -1]
        matches = [(_matched(tokens, place), place) for place in recent]
        matched, place = max(matches, key=lambda match: match[0])
        found = list(tokens[place : place + count])
        while len(found) < count:  # it runs into the end, so that it goes round in a circle
            found += found[: count - len(found)]
        return Proposal(found, matched)

    def _read(self, tokens: Tokens[int]) -> None:
        """Note where each gram's successor stands, but for the last one's, which has none yet."""
        for end in range(max(self._num_read, GRAM), len(tokens)):
            self._places.setdefault(tuple(tokens[end - GRAM : end]), []).append(end)
        self._num_read = max(self._num_read, len(tokens))


def _matched(tokens: Tokens[int], place: int) -> int:
    """How many tokens before `place` are those at the end."""
    most = min(LONGEST_MATCH, place)
    length = GRAM
    while length < most and tokens[place - length - 1] == tokens[-length - 1]:
        length += 1
    return length
