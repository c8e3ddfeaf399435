"""How many tokens to draft in a step: what a wider step costs, and how often drafts are right.

Both are measured as replies go. Tokens are drafted while the step that has them is expected to
give more tokens a second than the one without; so a batch that is large enough to keep the machine
busy drafts none. Knows neither tokens nor tensors.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import NamedTuple

MAX_DRAFT = 24
"""Tokens drafted for one sequence in a step, at most."""
MAX_DRAFT_ROWS = 112
"""Tokens drafted in a step for all sequences together, at most."""

_SOONER, _LATER = 0.3, 0.1  # shares of a measurement that is less than the others, and of one more
_MOST_WEIGHT = 16.0  # of tokens tested
_MEMORY = 0.8  # what a trial leaves of the weight of those before
_FORGOTTEN_A_TOKEN = 0.005
_FORGOTTEN_A_STEP = 0.01
_PRIOR_WEIGHT = 2.0
_FIRST_ROW_SHARE = 0.25  # of a plain step, before a wider one was measured
_WIDE_STEPS_IN_A_ROW = 32


@dataclass(slots=True)
class Acceptance:
    """How likely a drafted token is the one that comes, if those before it were.

    Old trials lose weight against new ones and, by and by, against the `prior`: what did not pay
    is tried again later.
    """

    prior: float
    accepted: float = 0.0
    tested: float = 0.0

    @property
    def probability(self) -> float:
        return (self.accepted + self.prior * _PRIOR_WEIGHT) / (self.tested + _PRIOR_WEIGHT)

    def note(self, num_accepted: int, num_drafted: int) -> None:
        """Of `num_drafted` tokens so many were right; the first wrong one ended the test."""
        tested = min(num_accepted + 1, num_drafted)
        self.accepted = self.accepted * _MEMORY + num_accepted
        self.tested = self.tested * _MEMORY + tested
        if self.tested > _MOST_WEIGHT:  # many right ones at once do not outweigh what follows
            self.accepted *= _MOST_WEIGHT / self.tested
            self.tested = _MOST_WEIGHT

    def forget(self) -> None:
        """A token came that no draft was tried for."""
        self.accepted *= 1 - _FORGOTTEN_A_TOKEN
        self.tested *= 1 - _FORGOTTEN_A_TOKEN


class Offer(NamedTuple):
    """A sequence for which up to `most` tokens can be drafted, at so many seconds each."""

    probability: float
    most: int
    token_s: float = 0.0


@dataclass(slots=True)
class StepCosts:
    """What steps that decode take: a plain one of so many sequences, and each further row."""

    num_sequences: int = 0
    plain_s: float = 0.0
    row_s: float | None = None
    num_wide: int = 0

    @property
    def _first_row_s(self) -> float:
        """What a further row is taken to cost before one was measured."""
        return self.plain_s / max(self.num_sequences, 1) * _FIRST_ROW_SHARE

    def note(self, num_sequences: int, num_drafted: int, seconds: float) -> None:
        """A step of these sequences took so long with so many drafted tokens."""
        if num_drafted == 0:
            is_new = num_sequences != self.num_sequences
            self.plain_s = seconds if is_new else mean(self.plain_s, seconds)
            self.num_sequences, self.num_wide = num_sequences, 0
            if self.row_s is not None:
                self.row_s += _FORGOTTEN_A_STEP * (self._first_row_s - self.row_s)
        elif num_sequences == self.num_sequences:
            # A row never costs more than a step of its own would.
            most_s = self.plain_s / num_sequences
            row_s = min(max(seconds - self.plain_s, 0.0) / num_drafted, most_s)
            self.row_s = row_s if self.row_s is None else mean(self.row_s, row_s)
            self.num_wide += 1

    def is_known(self, num_sequences: int) -> bool:
        """Whether plain steps of so many sequences were measured, and not too long ago."""
        return num_sequences == self.num_sequences and self.num_wide < _WIDE_STEPS_IN_A_ROW

    def lengths(self, offers: Items[Offer]) -> list[int]:
        """How many tokens to draft for each offer; none before a plain step was measured."""
        lengths = [0] * len(offers)
        if not self.is_known(len(offers)):
            return lengths
        row_s = self._first_row_s if self.row_s is None else self.row_s
        # Not measured yet, a wider step is not to be much wider.
        room = MAX_DRAFT_ROWS if self.row_s is not None else len(offers)
        num_tokens, seconds = float(len(offers)), self.plain_s
        for gain, index in _gains(offers)[:room]:
            cost = row_s + offers[index].token_s
            if gain * seconds <= cost * num_tokens:
                continue
            lengths[index] += 1
            num_tokens += gain
            seconds += cost
        return lengths


def _gains(offers: Items[Offer]) -> list[tuple[float, int]]:
    """What each further drafted token is expected to add, and whose it is; the most first."""
    gains = [
        (offer.probability**depth, index)
        for index, offer in enumerate(offers)
        for depth in range(1, min(offer.most, MAX_DRAFT) + 1)
    ]
    return sorted(gains, reverse=True)


def mean(old: float, new: float) -> float:
    """A running mean of durations with a new one in it; what else runs only ever adds to one."""
    return old + (_SOONER if new < old else _LATER) * (new - old)
