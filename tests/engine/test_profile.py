"""Stages add up, inner ones once, and are told now and then."""

from __future__ import annotations

import pytest

from olla.engine.profile import REPORT_EVERY_S, NoProfile, StageTimes


class Clock:
    """Stands until it is moved."""

    def __init__(self) -> None:
        self.now_ns = 1_000

    def __call__(self) -> int:
        return self.now_ns

    def pass_ms(self, milliseconds: float) -> None:
        self.now_ns += int(milliseconds * 1e6)


def step(times: StageTimes, clock: Clock) -> None:
    with times.stage("schedule"):
        clock.pass_ms(1)
    with times.stage("forward"):
        clock.pass_ms(2)
        with times.stage("attention"):
            clock.pass_ms(4)
        clock.pass_ms(2)
    clock.pass_ms(1)


def test_a_line_has_the_mean_of_each_stage_inner_ones_apart() -> None:
    lines: list[str] = []
    clock = Clock()
    times = StageTimes(lines.append, clock_ns=clock)

    step(times, clock)
    times.end_step(3, is_last=False)
    step(times, clock)
    times.end_step(1, is_last=True)

    assert lines == [
        "profile steps=2 tokens=4 schedule_ms=1.000 other_ms=1.000 forward_ms=4.000 "
        "attention_ms=4.000 total_ms=10.000"
    ]


def test_drafts_are_told_where_there_were_any() -> None:
    lines: list[str] = []
    times = StageTimes(lines.append, clock_ns=Clock())

    with times.stage("forward"):
        pass
    times.end_step(1, is_last=False, drafted=4, accepted=1)
    with times.stage("forward"):
        pass
    times.end_step(1, is_last=True, drafted=3, accepted=3)

    assert lines[0].startswith("profile steps=2 tokens=2 drafted=7 accepted=4 ")


def test_a_long_run_is_told_every_few_seconds_from_the_start_each_time() -> None:
    lines: list[str] = []
    clock = Clock()
    times = StageTimes(lines.append, clock_ns=clock)

    for _ in range(3):
        with times.stage("forward"):
            clock.pass_ms(REPORT_EVERY_S * 600)
        times.end_step(1, is_last=False)

    assert len(lines) == 1
    assert lines[0].startswith("profile steps=2 tokens=2 ")


@pytest.mark.parametrize("is_last", [True, False])
def test_time_between_steps_counts_for_none(is_last: bool) -> None:
    lines: list[str] = []
    clock = Clock()
    times = StageTimes(lines.append, clock_ns=clock)

    for _ in range(2):
        step(times, clock)
        times.end_step(1, is_last=is_last)
        clock.pass_ms(10_000)

    assert all(line.endswith("total_ms=10.000") for line in lines)
    assert lines


def test_a_stage_that_raises_ends() -> None:
    lines: list[str] = []
    clock = Clock()
    times = StageTimes(lines.append, clock_ns=clock)

    try:
        with times.stage("forward"):
            clock.pass_ms(1)
            raise ValueError
    except ValueError:
        clock.pass_ms(1)
    times.end_step(1, is_last=True)

    assert "forward_ms=1.000" in lines[0]
    assert "other_ms=1.000" in lines[0]


def test_devices_are_waited_for_at_every_edge() -> None:
    waits: list[int] = []
    times = StageTimes(lambda line: None, wait=lambda: waits.append(1))

    with times.stage("forward"):
        pass

    assert len(waits) == 2


def test_without_a_profile_nothing_happens() -> None:
    profile = NoProfile()

    with profile.stage("forward"), profile.stage("attention"):
        profile.end_step(1, is_last=True)
