"""Where a step's time goes, by stage, as a line of the log now and then (OLLA_PROFILE).

Stages may lie inside each other; the time of an inner one is not the outer one's too. Knows
neither the engine nor what its stages do.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

REPORT_EVERY_S = 5.0
_OUTSIDE = "other"


class Profile(Protocol):
    def stage(self, name: str) -> AbstractContextManager[None]:
        """Time spent in the block is that of `name`."""
        ...

    def end_step(
        self, num_tokens: int, *, is_last: bool, drafted: int = 0, accepted: int = 0
    ) -> None:
        """A step of so many tokens is over; after the last one nothing is left to do.

        Args:
            drafted: tokens beyond those, of which so many were `accepted`.
        """
        ...


class NoProfile:
    """What runs when nobody asked: no clock is read."""

    def __init__(self) -> None:
        self._nothing: AbstractContextManager[None] = nullcontext()

    def stage(self, name: str) -> AbstractContextManager[None]:
        return self._nothing

    def end_step(
        self, num_tokens: int, *, is_last: bool, drafted: int = 0, accepted: int = 0
    ) -> None:
        pass


class StageTimes:
    """Adds up the stages, and reports their means for a step every few seconds and at the end."""

    def __init__(
        self,
        report: Callable[[str], None],
        wait: Callable[[], None] = lambda: None,
        clock_ns: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        """Args:
        wait: called where a stage begins or ends, for devices that compute behind our back.
        """
        self._report = report
        self._wait = wait
        self._clock_ns = clock_ns
        self._stages = [_OUTSIDE]
        self._spent_ns: dict[str, int] = {}
        self._num_steps = self._num_tokens = 0
        self._num_drafted = self._num_accepted = 0
        self._started_ns = self._marked_ns = 0
        self._is_within_step = False

    def stage(self, name: str) -> AbstractContextManager[None]:
        return _Stage(self, name)

    def end_step(
        self, num_tokens: int, *, is_last: bool, drafted: int = 0, accepted: int = 0
    ) -> None:
        self._mark()
        self._num_steps += 1
        self._num_tokens += num_tokens
        self._num_drafted += drafted
        self._num_accepted += accepted
        if is_last or self._marked_ns - self._started_ns >= REPORT_EVERY_S * 1e9:
            self._report(self._line())
            self._spent_ns.clear()
            self._num_steps = self._num_tokens = self._started_ns = 0
            self._num_drafted = self._num_accepted = 0
        self._is_within_step = False

    def enter(self, name: str) -> None:
        if self._is_within_step:
            self._mark()
        else:  # what went by since the last step counts for none
            self._wait()
            self._is_within_step = True
            self._marked_ns = self._clock_ns()
            self._started_ns = self._started_ns or self._marked_ns
        self._stages.append(name)

    def leave(self) -> None:
        self._mark()
        self._stages.pop()

    def _mark(self) -> None:
        """Give the time since the last mark to the stage that it was spent in."""
        self._wait()
        now = self._clock_ns()
        stage = self._stages[-1]
        self._spent_ns[stage] = self._spent_ns.get(stage, 0) + now - self._marked_ns
        self._marked_ns = now

    def _line(self) -> str:
        times = " ".join(
            f"{stage}_ms={spent / self._num_steps / 1e6:.3f}"
            for stage, spent in self._spent_ns.items()
        )
        total = sum(self._spent_ns.values()) / self._num_steps / 1e6
        drafts = ""
        if self._num_drafted:
            drafts = f"drafted={self._num_drafted} accepted={self._num_accepted} "
        return (
            f"profile steps={self._num_steps} tokens={self._num_tokens} {drafts}{times} "
            f"total_ms={total:.3f}"
        )


class _Stage:
    def __init__(self, times: StageTimes, name: str) -> None:
        self._times = times
        self._name = name

    def __enter__(self) -> None:
        self._times.enter(self._name)

    def __exit__(self, *_: object) -> None:
        self._times.leave()
