"""StopScanner: ends a reply at a stop string and never shows part of one."""

from __future__ import annotations

from collections.abc import Iterable


class StopScanner:
    """Takes a reply in pieces, cut anywhere; gives back what is certainly not part of a stop.

    `matched` is the stop string that has been seen, "" while none has; it and what follows are
    dropped.
    """

    def __init__(self, stops: Iterable[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.matched = ""

    @property
    def stopped(self) -> bool:
        return bool(self.matched)

    def push(self, text: str) -> str:
        """The text that may be shown now."""
        if not self._stops:
            return text
        if self.stopped:
            return ""
        self._held += text
        found = [(at, stop) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            first, self.matched = min(found, key=lambda place: place[0])
            shown, self._held = self._held[:first], ""
            return shown
        cut = len(self._held) - self._num_held()
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown

    def finish(self) -> str:
        """The reply is over: what was held back is no stop string after all."""
        shown, self._held = self._held, ""
        return shown

    def _num_held(self) -> int:
        """Length of the longest end of the text that begins a stop string."""
        return max(_overlap(self._held, stop) for stop in self._stops)


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`; `text` holds no whole one."""
    start = text.find(stop[0], max(len(text) - len(stop) + 1, 0))
    while start >= 0 and not stop.startswith(text[start:]):
        start = text.find(stop[0], start + 1)
    return len(text) - start if start >= 0 else 0
