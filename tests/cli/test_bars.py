"""The lines of a transfer, on a terminal and in a log."""

from __future__ import annotations

import pytest

from olla.cli.bars import PlainLines, Row, Rows, format_eta
from olla.requests import Progress

DIGEST = "sha256:6a0746a1ec1a"
GB = 10**9


def layer(completed_bytes: int, total_bytes: int = 2 * GB) -> Progress:
    return Progress("pulling 6a0746a1ec1a", DIGEST, total_bytes, completed_bytes)


def test_a_bar_has_percent_sizes_rate_and_time_left() -> None:
    row = Row(layer(0))
    row.update(layer(0), now=0.0)
    row.update(layer(840_000_000), now=20.0)

    line = row.line(80, now=20.0, is_busy=True)

    assert line.startswith("pulling 6a0746a1ec1a:  42% ▕")
    assert line.rstrip().endswith("▏ 840 MB/2.0 GB   42 MB/s   27s".replace("2.0 GB", "2 GB"))
    assert len(line) == 80


def test_a_full_bar_has_only_the_size() -> None:
    row = Row(layer(2 * GB))

    line = row.line(80, now=0.0, is_busy=False)

    assert line.startswith("pulling 6a0746a1ec1a: 100% ▕████")
    assert line.rstrip().endswith("█▏ 2 GB")


def test_the_bar_grows_with_the_bytes() -> None:
    lengths = [
        Row(layer(GB * tenths // 5)).line(100, now=0.0, is_busy=True).count("█")
        for tenths in range(11)
    ]

    assert lengths == sorted(lengths)
    assert lengths[0] == 0


def test_a_bar_does_not_go_back_while_bytes_come_again() -> None:
    rows = Rows()
    rows.update(Progress("pulling x", "d", 100, 60), 0.0)
    before = rows.lines(80, 0.0)

    rows.update(Progress("pulling x", "d", 100, 20), 0.0)

    assert rows.lines(80, 0.0) == before
    rows.update(Progress("pulling x", "d", 50, 20), 0.0)  # another file of that name
    assert " 40% " in rows.lines(80, 0.0)[0]


def test_a_narrow_terminal_gets_no_bar_and_no_overflow() -> None:
    line = Row(layer(GB)).line(30, now=0.0, is_busy=True)

    assert line == "pulling 6a0746a1ec1a:  50%  1 "


@pytest.mark.parametrize(
    ("width", "line"),
    [
        (100, f"copying file sha256:{'a' * 62}…:  50%  1 GB/2 GB"),
        (80, f"copying file sha256:{'a' * 42}…:  50%  1 GB/2 GB"),
        (30, "copying file sha256…:  50%  1 "),
    ],
)
def test_a_status_too_long_for_the_line_leaves_room_for_the_percentage(
    width: int, line: str
) -> None:
    progress = Progress(f"copying file sha256:{'a' * 64}", DIGEST, 2 * GB, GB)

    assert Row(progress).line(width, now=0.0, is_busy=True) == line


def test_a_status_without_bytes_spins_while_it_is_the_last() -> None:
    rows = Rows()
    rows.update(Progress("pulling manifest"), now=0.0)
    assert rows.lines(80, now=0.0) == ["pulling manifest ⠋"]

    rows.update(Progress("success"), now=0.0)
    assert rows.lines(80, now=0.1, is_busy=False) == ["pulling manifest ", "success "]


def test_a_layer_that_has_not_begun_has_no_row() -> None:
    rows = Rows()
    rows.update(layer(0), now=0.0)

    assert rows.lines(80, now=0.0) == []


def test_the_rate_looks_back_ten_samples() -> None:
    row = Row(layer(0))
    for second in range(30):
        row.update(layer(second * 1_000_000 if second < 20 else 20_000_000), now=float(second))

    assert "/s" not in row.line(100, now=29.0, is_busy=True)


def test_a_log_gets_a_bar_at_every_tenth() -> None:
    plain = PlainLines()
    lines = [plain.next(layer(step * GB // 50)) for step in range(101)]

    shown = [line for line in lines if line]
    assert shown[0] == "pulling 6a0746a1ec1a:   1% of 2 GB"
    assert shown[-1] == "pulling 6a0746a1ec1a: 100% of 2 GB"
    assert len(shown) == 11


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (37.9, "37s"), (62, "1m2s"), (3900, "1h5m"), (360_000, "99h+")],
)
def test_time_left(seconds: float, text: str) -> None:
    assert format_eta(seconds) == text


TWICE = ["pulling manifest", "writing manifest", "success", "writing manifest", "success"]


def test_a_status_that_comes_again_has_a_row_again() -> None:
    """As in a create that pulls its base first."""
    rows, plain = Rows(), PlainLines()
    lines = []
    for status in TWICE:
        rows.update(Progress(status), now=0.0)
        lines.append(plain.next(Progress(status)))

    assert [line.strip() for line in rows.lines(80, now=0.0, is_busy=False)] == TWICE
    assert lines == TWICE


def test_a_status_that_is_only_repeated_has_one_row() -> None:
    rows, plain = Rows(), PlainLines()
    lines = []
    for _ in range(3):
        rows.update(Progress("verifying"), now=0.0)
        lines.append(plain.next(Progress("verifying")))

    assert len(rows.lines(80, now=0.0)) == 1
    assert lines == ["verifying", "", ""]
