"""Sizes, counts, times and tables, by the vectors of spec/cli.md sections 3.2 to 3.5."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from olla.cli.models import format_processor
from olla.cli.text import format_block, format_columns, format_count, format_size, format_time

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 KB"),
        (1200, "1.2 KB"),
        (815_900_000, "815 MB"),
        (2_019_393_189, "2.0 GB"),
        (12_999_999_999, "12 GB"),
        (1_999_999_999_999, "2.0 TB"),
    ],
)
def test_sizes(size_bytes: int, text: str) -> None:
    assert format_size(size_bytes) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (999, "999"),
        (1000, "1K"),
        (125_000_000, "125M"),
        (500_500_000, "500.50M"),
        (2_800_000_000, "2.8B"),
        (7_000_000_000, "7B"),
    ],
)
def test_counts(number: int, text: str) -> None:
    assert format_count(number) == text


@pytest.mark.parametrize(
    ("span", "text"),
    [
        (timedelta(seconds=0.9), "Less than a second"),
        (timedelta(seconds=1), "1 second"),
        (timedelta(seconds=59), "59 seconds"),
        (timedelta(seconds=60), "About a minute"),
        (timedelta(minutes=59), "59 minutes"),
        (timedelta(minutes=60), "About an hour"),
        (timedelta(minutes=90), "2 hours"),
        (timedelta(hours=47), "47 hours"),
        (timedelta(hours=48), "2 days"),
        (timedelta(days=13), "13 days"),
        (timedelta(days=14), "2 weeks"),
        (timedelta(days=59), "8 weeks"),
        (timedelta(days=60), "2 months"),
        (timedelta(days=729), "24 months"),
        (timedelta(days=730), "2 years"),
    ],
)
def test_times_in_the_past_and_ahead(span: timedelta, text: str) -> None:
    assert format_time(NOW - span, NOW) == f"{text} ago"
    assert format_time(NOW + span, NOW) == f"{text} from now"


def test_a_time_past_reckoning_is_forever() -> None:
    assert format_time(NOW + timedelta(days=292 * 365), NOW) == "Forever"


def test_the_zero_time_is_never() -> None:
    assert format_time(datetime(1, 1, 1, tzinfo=UTC), NOW) == "Never"


def test_columns_are_padded_to_the_widest_cell_and_four_more() -> None:
    assert format_columns([("A", "B"), ("longer", "x")]) == ["A         B    ", "longer    x    "]


def test_rows_of_different_lengths_share_columns() -> None:
    assert format_columns([("a",), ("b", "c")]) == ["a         ", "b    c    "]


def test_a_block_is_indented_and_ends_with_a_blank_line() -> None:
    assert format_block("Model", [("a", "b")]) == "  Model\n    a    b    \n\n"


@pytest.mark.parametrize(
    ("size_bytes", "vram_bytes", "text"),
    [
        (100, 0, "100% CPU"),
        (100, 100, "100% GPU"),
        (100, 52, "48%/52% CPU/GPU"),
        (100, 101, "Unknown"),
        (0, 0, "100% CPU"),
    ],
)
def test_processor(size_bytes: int, vram_bytes: int, text: str) -> None:
    assert format_processor(size_bytes, vram_bytes) == text
