"""The lines of a transfer: which rows there are and what each says (spec/cli.md section 6).

Text only: the caller gives the width and the time and puts the lines on the screen.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace

from olla.cli.text import format_size
from olla.requests import Progress

FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
FRAME_S = 0.1

_NUM_SAMPLES = 10
_SAMPLE_S = 1.0
_FIGURES_WIDTH = 34
_LEAST_BAR_WIDTH = 4
_LEAST_STATUS_WIDTH = len("pulling 6a0746a1ec1a")
_PLAIN_STEP = 10


@dataclass(slots=True)
class Row:
    """The latest report of one status, and samples of its speed."""

    progress: Progress
    samples: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=_NUM_SAMPLES))

    def update(self, progress: Progress, now: float) -> None:
        if progress.total_bytes == self.progress.total_bytes:
            # What a transfer has to bring once more is no step back to whoever waits.
            most = max(progress.completed_bytes, self.progress.completed_bytes)
            progress = replace(progress, completed_bytes=most)
        self.progress = progress
        if not self.samples or now - self.samples[-1][0] >= _SAMPLE_S:
            self.samples.append((now, progress.completed_bytes))

    def line(self, width: int, now: float, *, is_busy: bool) -> str:
        if self.progress.total_bytes:
            return self._bar(width, now)[:width]
        frame = FRAMES[int(now / FRAME_S) % len(FRAMES)] if is_busy else ""
        return f"{self.progress.status} {frame}"[:width]

    def _bar(self, width: int, now: float) -> str:
        done = self.progress.completed_bytes / self.progress.total_bytes
        label = f"{self.progress.status}: {percent(self.progress):3d}% "
        figures = self._figures(now).ljust(_FIGURES_WIDTH)
        cells = width - len(label) - len(figures) - 2
        if cells < _LEAST_BAR_WIDTH:
            return self._without_bar(width, figures.rstrip())
        return f"{label}▕{('█' * int(cells * min(done, 1.0))).ljust(cells)}▏{figures}"

    def _without_bar(self, width: int, figures: str) -> str:
        """A status too long for the line loses its end, so that the percentage is to be seen."""
        percentage = f": {percent(self.progress):3d}% "
        room = max(width - len(percentage) - len(figures), _LEAST_STATUS_WIDTH)
        return shorten(self.progress.status, room) + percentage + figures

    def _figures(self, now: float) -> str:
        total, completed = self.progress.total_bytes, self.progress.completed_bytes
        if completed >= total:
            return f" {format_size(total)}"
        figures = f" {format_size(completed)}/{format_size(total)}"
        rate = self._rate(now)
        if rate < 1:
            return figures
        return f"{figures}   {format_size(int(rate))}/s   {format_eta((total - completed) / rate)}"

    def _rate(self, now: float) -> float:
        """Bytes a second since the oldest sample; 0 while nothing can be said."""
        since, first = self.samples[0] if self.samples else (now, 0)
        return (self.progress.completed_bytes - first) / (now - since) if now > since else 0.0


class Rows:
    """Every status so far, in order; the last one without a bar is at work.

    A bar has one row for all its reports. A status without one has a row each time that it comes:
    a create that pulls its base first writes two manifests.
    """

    def __init__(self) -> None:
        self._rows: list[Row] = []
        self._bars: dict[str, Row] = {}

    def update(self, progress: Progress, now: float) -> None:
        if progress.total_bytes and not progress.completed_bytes:
            return  # a layer whose transfer has not begun has no row yet
        if progress.total_bytes:
            row = self._bars.get(progress.status) or self._add(progress)
            self._bars[progress.status] = row
        else:
            is_repeated = self._rows and self._rows[-1].progress.status == progress.status
            row = self._rows[-1] if is_repeated else self._add(progress)
        row.update(progress, now)

    def lines(self, width: int, now: float, *, is_busy: bool = True) -> list[str]:
        rows = tuple(self._rows)  # the screen's thread reads while ours adds
        return [row.line(width, now, is_busy=is_busy and row is rows[-1]) for row in rows]

    def _add(self, progress: Progress) -> Row:
        row = Row(progress)
        self._rows.append(row)
        return row


class PlainLines:
    """The same for a log: a line for each status as it comes, and for each tenth of a bar."""

    def __init__(self) -> None:
        self._steps: dict[str, int] = {}
        self._last_status = ""

    def next(self, progress: Progress) -> str:
        """The line that this report is worth; "" when it is worth none."""
        is_repeated = progress.status == self._last_status
        self._last_status = progress.status
        if not progress.total_bytes:
            return "" if is_repeated else progress.status
        step = percent(progress) // _PLAIN_STEP
        if not progress.completed_bytes or step <= self._steps.get(progress.status, -1):
            return ""
        self._steps[progress.status] = step
        return f"{progress.status}: {percent(progress):3d}% of {format_size(progress.total_bytes)}"


def percent(progress: Progress) -> int:
    return min(100, int(progress.completed_bytes * 100 / progress.total_bytes))


def shorten(text: str, length: int) -> str:
    """The text, with a mark where its end is missing."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def format_eta(seconds: float) -> str:
    """`37s`, `2m5s`, `1h5m`, and `99h+` for what is too far off to say."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60}s"
    hours = whole // 3600
    return "99h+" if hours > 99 else f"{hours}h{whole % 3600 // 60}m"
