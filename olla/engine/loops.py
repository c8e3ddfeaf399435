"""Replies that would never end: told by what repeats in them. Exact and cheap."""

from __future__ import annotations

MAX_EQUAL_PIECES = 30
"""Ollama's bound: a piece of text may follow itself this many times (spec/api.md section 5.4)."""

MIN_PERIODS, MIN_LOOP_TOKENS = 64, 2048
_MAX_PERIOD = 128
_CHECK_EVERY_TOKENS = 256


class EqualPieces:
    """Counts pieces in a row that are alike but for the whitespace round them."""

    def __init__(self) -> None:
        self._last = ""
        self._num_repeats = 0

    def push(self, text: str) -> bool:
        """Whether the reply, grown by `text`, has repeated itself too often."""
        text = text.strip()
        self._num_repeats = self._num_repeats + 1 if text == self._last else 0
        self._last = text
        return self._num_repeats > MAX_EQUAL_PIECES


class TokenLoop:
    """Tells when a greedy reply has gone round in a circle for so long that it will not leave it.

    That is when its newest tokens, `MIN_LOOP_TOKENS` at least, are `MIN_PERIODS` or more exact
    repetitions of the same few. Short of that nothing is certain, as the context still grows.
    """

    def __init__(self) -> None:
        self._tail: list[int] = []
        self._num_until_check = _CHECK_EVERY_TOKENS

    def push(self, token: int) -> bool:
        """Whether the reply, grown by `token`, is in a loop; looked at now and then only."""
        self._tail.append(token)
        self._num_until_check -= 1
        if self._num_until_check:
            return False
        self._num_until_check = _CHECK_EVERY_TOKENS
        del self._tail[: -_MAX_PERIOD * MIN_PERIODS]
        return any(self._has_period(period) for period in range(1, _MAX_PERIOD + 1))

    def _has_period(self, period: int) -> bool:
        length = max(MIN_PERIODS * period, MIN_LOOP_TOKENS)
        tail = self._tail[-length:]
        return (
            len(tail) == length
            and tail[-1 - period] == tail[-1]
            and (tail[period:] == tail[:-period])
        )
