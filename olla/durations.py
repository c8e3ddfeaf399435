"""Durations as Go writes them: `5m`, `1h30m`, `-1s`, `1.234567s`; and Ollama's keep_alive.

Knows nothing about clocks or timers. A keep-alive is seconds, with `math.inf` for "forever".
"""

from __future__ import annotations

import math
import re

from olla.errors import InvalidDuration

NANOSECONDS = 1_000_000_000
FOREVER = math.inf
LONGEST_S = (2**63 - 1) / NANOSECONDS  # Go counts nanoseconds in an int64: 292 years

_UNITS = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "μs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
}
_TERM = re.compile(r"(\d+\.?\d*|\.\d+)([^\d.]*)", re.ASCII)


def parse_duration(text: str) -> float:
    """Read Go's duration notation into seconds.

    Raises:
        InvalidDuration: with the sentence that Go's time package uses.
    """
    sign = -1.0 if text.startswith("-") else 1.0
    rest = text[1:] if text[:1] in {"-", "+"} else text
    if rest == "0":
        return 0.0
    if not rest:
        raise InvalidDuration(f'time: invalid duration "{text}"')
    total = 0.0
    position = 0
    while position < len(rest):
        term = _TERM.match(rest, position)
        if term is None:
            raise InvalidDuration(f'time: invalid duration "{text}"')
        total += float(term[1]) * _seconds_per(term[2], text)
        position = term.end()
    if total > LONGEST_S:
        raise InvalidDuration(f'time: invalid duration "{text}"')
    return sign * total


def parse_keep_alive(value: object) -> float | None:
    """Read a `keep_alive` as JSON has it into seconds; None for null, FOREVER for negative.

    Raises:
        InvalidDuration: neither a number of seconds nor a duration.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        kinds = {bool: "bool", dict: "map[string]interface {}", list: "[]interface {}"}
        kind = kinds.get(type(value), type(value).__name__)
        raise InvalidDuration(f"Unsupported type: '{kind}'")
    return keep_alive(parse_duration(value) if isinstance(value, str) else value)


def keep_alive(seconds: float) -> float:
    """A number of seconds as a keep-alive: negative, or past what a duration holds, is FOREVER."""
    return float(seconds) if 0 <= seconds <= LONGEST_S else FOREVER


def format_duration(nanoseconds: int) -> str:
    """Write a duration as Go prints it: `0s`, `950ns`, `12.3µs`, `1.5s`, `1m2.5s`, `1h0m0s`."""
    if nanoseconds < 0:
        return "-" + format_duration(-nanoseconds)
    if nanoseconds == 0:
        return "0s"
    for unit, size in (("ns", 1), ("µs", 1_000), ("ms", 1_000_000)):
        if nanoseconds < size * 1000:
            return _trim(nanoseconds, size) + unit
    minutes, rest = divmod(nanoseconds, 60 * NANOSECONDS)
    text = _trim(rest, NANOSECONDS) + "s"
    if minutes:
        text = f"{minutes % 60}m{text}"
    if minutes >= 60:
        text = f"{minutes // 60}h{text}"
    return text


def _seconds_per(unit: str, text: str) -> float:
    if not unit:
        raise InvalidDuration(f'time: missing unit in duration "{text}"')
    if unit not in _UNITS:
        raise InvalidDuration(f'time: unknown unit "{unit}" in duration "{text}"')
    return _UNITS[unit]


def _trim(nanoseconds: int, size: int) -> str:
    whole, fraction = divmod(nanoseconds, size)
    digits = f"{fraction:0{len(str(size)) - 1}d}".rstrip("0") if size > 1 else ""
    return f"{whole}.{digits}" if digits else str(whole)
