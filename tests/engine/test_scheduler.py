"""Who runs in a step, and with how many tokens."""

from __future__ import annotations

from olla.engine.scheduler import Scheduled, Scheduler
from olla.engine.sequence import Sequence
from olla.options import SamplingParams


def sequence(number: int, num_tokens: int, num_computed: int = 0) -> Sequence:
    made = Sequence(
        id=number, tokens=[0] * num_tokens, sampling=SamplingParams(), max_length=10_000
    )
    made.num_computed = num_computed
    return made


def counts(scheduled: list[Scheduled]) -> dict[int, int]:
    return {item.sequence.id: item.num_tokens for item in scheduled}


def test_prompts_share_the_step_first_come_first_served() -> None:
    scheduler = Scheduler(tokens_per_step=10)
    for number, length in ((1, 6), (2, 8), (3, 3)):
        scheduler.add(sequence(number, length))

    assert counts(scheduler.schedule()) == {1: 6, 2: 4}


def test_a_long_prompt_does_not_hold_up_running_replies() -> None:
    scheduler = Scheduler(tokens_per_step=10)
    scheduler.add(sequence(1, 1000))
    scheduler.add(sequence(2, 6, num_computed=5))

    assert counts(scheduler.schedule()) == {1: 9, 2: 1}


def test_no_more_run_at_once_than_allowed() -> None:
    scheduler = Scheduler(max_running=2)
    sequences = [sequence(number, 2) for number in range(3)]
    for waiting in sequences:
        scheduler.add(waiting)

    assert set(counts(scheduler.schedule())) == {0, 1}
    scheduler.remove(sequences[0])
    assert set(counts(scheduler.schedule())) == {1, 2}


def test_only_the_end_of_a_prompt_yields_a_token() -> None:
    scheduler = Scheduler(tokens_per_step=4)
    prompt = sequence(1, 6)
    scheduler.add(prompt)

    ends = []
    for _ in range(2):
        (item,) = scheduler.schedule()
        ends.append(item.reaches_end)
        prompt.num_computed += item.num_tokens

    assert ends == [False, True]


def test_a_sequence_that_waits_can_leave() -> None:
    scheduler = Scheduler(max_running=1)
    first, second = sequence(1, 2), sequence(2, 2)
    scheduler.add(first)
    scheduler.add(second)
    scheduler.schedule()

    scheduler.remove(second)
    scheduler.remove(first)

    assert scheduler.schedule() == []
    assert list(scheduler) == []


def test_a_full_window_keeps_its_beginning_and_newest_half() -> None:
    full = Sequence(
        id=1, tokens=list(range(10)), sampling=SamplingParams(), max_length=10, num_keep=2
    )
    full.num_computed = 9

    full.shift_window()

    assert full.tokens == [0, 1, 6, 7, 8, 9]
    assert full.num_computed == 0
