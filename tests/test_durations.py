"""Go's durations and Ollama's keep_alive."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from olla.durations import (
    FOREVER,
    NANOSECONDS,
    format_duration,
    keep_alive,
    parse_duration,
    parse_keep_alive,
)
from olla.errors import InvalidDuration

HOUR_NS = 3600 * NANOSECONDS


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("-0", 0),
        ("5m", 300),
        ("1h30m", 5400),
        ("5m0s", 300),
        ("-1m", -60),
        ("+1.5s", 1.5),
        (".5s", 0.5),
        ("1.s", 1),
        ("250ms", 0.25),
        ("10us", 1e-5),
        ("10µs", 1e-5),
        ("10μs", 1e-5),
        ("100ns", 1e-7),
    ],
)
def test_durations_are_read_as_go_reads_them(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("60", 'time: missing unit in duration "60"'),
        ("1h5", 'time: missing unit in duration "1h5"'),
        ("x", 'time: invalid duration "x"'),
        ("", 'time: invalid duration ""'),
        ("-", 'time: invalid duration "-"'),
        (".s", 'time: invalid duration ".s"'),
        ("٣s", 'time: invalid duration "٣s"'),
        ("9999999h", 'time: invalid duration "9999999h"'),
        ("5 minutes", 'time: unknown unit " minutes" in duration "5 minutes"'),
        ("1d", 'time: unknown unit "d" in duration "1d"'),
        ("1S", 'time: unknown unit "S" in duration "1S"'),
    ],
)
def test_what_go_cannot_read_is_refused_in_its_words(text: str, error: str) -> None:
    with pytest.raises(InvalidDuration) as caught:
        parse_duration(text)

    assert str(caught.value) == error


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        (0, 0),
        (300, 300),
        (42.5, 42.5),
        (-1, FOREVER),
        (-0.5, FOREVER),
        ("5m", 300),
        ("5m0s", 300),
        ("1h30m", 5400),
        ("0", 0),
        ("-1m", FOREVER),
        ("-1s", FOREVER),
        (10**400, FOREVER),
        (1e30, FOREVER),
    ],
)
def test_keep_alive_is_read_from_json(value: object, seconds: float | None) -> None:
    assert parse_keep_alive(value) == seconds


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ("60", 'time: missing unit in duration "60"'),
        ("x", 'time: invalid duration "x"'),
        (True, "Unsupported type: 'bool'"),
        ({}, "Unsupported type: 'map[string]interface {}'"),
        ([], "Unsupported type: '[]interface {}'"),
    ],
)
def test_a_keep_alive_that_means_nothing_is_refused(value: object, error: str) -> None:
    with pytest.raises(InvalidDuration) as caught:
        parse_keep_alive(value)

    assert str(caught.value) == error


@given(st.floats(allow_nan=False) | st.integers())
def test_a_keep_alive_is_never_negative(seconds: float) -> None:
    assert keep_alive(seconds) >= 0


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "0s"),
        (950, "950ns"),
        (12_300, "12.3µs"),
        (1_000_000, "1ms"),
        (1_500_000_000, "1.5s"),
        (1_234_567_000, "1.234567s"),
        (62_500_000_000, "1m2.5s"),
        (300 * NANOSECONDS, "5m0s"),
        (HOUR_NS, "1h0m0s"),
        (90 * 60 * NANOSECONDS, "1h30m0s"),
        (100 * HOUR_NS + 1, "100h0m0.000000001s"),
        (-NANOSECONDS, "-1s"),
    ],
)
def test_durations_are_written_as_go_prints_them(nanoseconds: int, text: str) -> None:
    assert format_duration(nanoseconds) == text


@given(st.integers(-(2**63) + 1, 2**63 - 1))
def test_a_written_duration_reads_back(nanoseconds: int) -> None:
    seconds = parse_duration(format_duration(nanoseconds))

    assert seconds == pytest.approx(nanoseconds / NANOSECONDS, rel=1e-12)


@given(st.text(max_size=20))
def test_any_text_is_a_duration_or_refused(text: str) -> None:
    try:
        parse_duration(text)
    except InvalidDuration as error:
        assert str(error).startswith("time: ")
