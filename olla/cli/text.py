"""Sizes, counts, times and tables as Ollama prints them (spec/cli.md sections 3.2 to 3.5).

Pure functions: no terminal, no clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

GAP = " " * 4

_SIZES = (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("KB", 10**3))
_YEAR_HOURS = 24 * 365


def format_size(size_bytes: int) -> str:
    """`815 MB`, `2.0 GB`, `1 KB`, `12 B`: one decimal below ten, unless it is whole."""
    for unit, factor in _SIZES:
        if size_bytes >= factor:
            value = size_bytes / factor
            is_whole = value >= 10 or value == int(value)
            return f"{int(value)} {unit}" if is_whole else f"{value:.1f} {unit}"
    return f"{size_bytes} B"


def format_count(number: int) -> str:
    """`7B`, `2.8B`, `134.52M`, `1K`, `12`."""
    for suffix, factor, decimals in (("B", 10**9, 1), ("M", 10**6, 2)):
        if number >= factor:
            return f"{number / factor:.{0 if number % factor == 0 else decimals}f}{suffix}"
    return f"{number / 1000:.0f}K" if number >= 1000 else str(number)


def format_time(time: datetime, now: datetime) -> str:
    """`3 days ago`, `4 minutes from now`, `Forever` and, for the zero time, `Never`."""
    if time.year == 1:
        return "Never"
    ahead = time - now
    if ahead > timedelta(hours=20 * _YEAR_HOURS):
        return "Forever"
    if ahead > timedelta():
        return f"{format_span(ahead)} from now"
    return f"{format_span(-ahead)} ago"


def format_span(span: timedelta) -> str:
    seconds = int(span.total_seconds())
    if seconds < 60:
        return _few(seconds, "Less than a second", "1 second", "seconds")
    minutes = seconds // 60
    if minutes < 60:
        return _few(minutes, "", "About a minute", "minutes")
    hours = int(span.total_seconds() / 3600 + 0.5)
    if hours < 48:
        return _few(hours, "", "About an hour", "hours")
    for unit, size, below in (("days", 24, 14 * 24), ("weeks", 168, 1440), ("months", 720, 17520)):
        if hours < below:
            return f"{hours // size} {unit}"
    return f"{hours // _YEAR_HOURS} years"


def format_columns(rows: Sequence[Sequence[str]], indent: str = "") -> list[str]:
    """Lines with every cell padded to its column's width and then by four spaces."""
    num_columns = max((len(row) for row in rows), default=0)
    filled = [(*row, *[""] * (num_columns - len(row))) for row in rows]
    widths = [max(map(len, column)) for column in zip(*filled, strict=True)]
    return [
        indent + "".join(cell.ljust(width) + GAP for cell, width in zip(row, widths, strict=True))
        for row in filled
    ]


def format_block(title: str, rows: Sequence[Sequence[str]]) -> str:
    """A titled part of `show`, with the blank line that ends it."""
    return "\n".join([f"  {title}", *format_columns(rows, indent=GAP), "", ""])


def _few(number: int, zero: str, one: str, many: str) -> str:
    return (zero, one)[number] if number < 2 else f"{number} {many}"
