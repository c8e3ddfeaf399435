"""Who runs in a step, with how many tokens, and who makes way when the cache is full."""

from __future__ import annotations

from olla.engine.blocks import BlockPool
from olla.engine.scheduler import TOKENS_PER_STEP_WHILE_DECODING, Scheduled, Scheduler
from olla.engine.sequence import Sequence
from olla.options import SamplingParams


def sequence(number: int, num_tokens: int) -> Sequence:
    # Tokens of its own, so that no prefix is shared by chance.
    tokens = [number * 10_000 + place for place in range(num_tokens)]
    return Sequence(id=number, tokens=tokens, sampling=SamplingParams(), max_length=10_000)


def scheduler_of(
    *sequences: Sequence, num_blocks: int = 1000, max_running: int = 32, tokens_per_step: int = 512
) -> Scheduler:
    scheduler = Scheduler(BlockPool(num_blocks, block_size=4), max_running, tokens_per_step)
    for waiting in sequences:
        scheduler.add(waiting)
    return scheduler


def counts(scheduled: list[Scheduled]) -> dict[int, int]:
    return {item.sequence.id: item.num_tokens for item in scheduled}


def step(scheduler: Scheduler) -> dict[int, int]:
    """One step as the engine makes it: computed, and a token added where the end was reached."""
    scheduled = scheduler.schedule()
    done = [item.sequence for item in scheduled if item.reaches_end]
    scheduler.committed(scheduled)
    for finished in done:
        finished.append(7)
    return counts(scheduled)


def test_a_prompt_takes_no_more_than_half_while_others_wait() -> None:
    scheduler = scheduler_of(*(sequence(n, 50) for n in (1, 2, 3)), tokens_per_step=16)

    assert step(scheduler) == {1: 8, 2: 4, 3: 4}


def test_what_a_short_prompt_leaves_goes_to_the_next() -> None:
    scheduler = scheduler_of(sequence(1, 3), sequence(2, 50), tokens_per_step=16)

    assert step(scheduler) == {1: 3, 2: 13}


def test_a_long_prompt_does_not_hold_up_running_replies() -> None:
    scheduler = scheduler_of(sequence(1, 4))
    step(scheduler)
    scheduler.add(sequence(2, 1000))

    assert step(scheduler) == {1: 1, 2: TOKENS_PER_STEP_WHILE_DECODING}


def test_no_more_run_at_once_than_allowed() -> None:
    sequences = [sequence(number, 2) for number in range(3)]
    scheduler = scheduler_of(*sequences, max_running=2)

    assert set(step(scheduler)) == {0, 1}
    scheduler.remove(sequences[0])
    assert set(step(scheduler)) == {1, 2}


def test_only_the_end_of_a_prompt_yields_a_token() -> None:
    prompt = sequence(1, 6)
    scheduler = scheduler_of(prompt, tokens_per_step=4)

    step(scheduler)
    assert prompt.num_generated == 0
    step(scheduler)
    assert prompt.num_generated == 1


def test_a_sequence_that_waits_can_leave() -> None:
    first, second = sequence(1, 2), sequence(2, 2)
    scheduler = scheduler_of(first, second, max_running=1)
    step(scheduler)

    scheduler.remove(second)
    scheduler.remove(first)

    assert scheduler.schedule() == []
    assert list(scheduler) == []


def test_a_prompt_waits_until_the_cache_has_room_for_all_of_it() -> None:
    first, second = sequence(1, 16), sequence(2, 16)
    scheduler = scheduler_of(first, second, num_blocks=6)

    assert set(step(scheduler)) == {1}
    scheduler.remove(first)
    assert set(step(scheduler)) == {2}


def test_nobody_overtakes_a_prompt_that_waits_for_room() -> None:
    first, large, small = sequence(1, 16), sequence(2, 16), sequence(3, 1)
    scheduler = scheduler_of(first, large, small, num_blocks=6)

    assert set(step(scheduler)) == {1}
    scheduler.remove(first)
    assert set(step(scheduler)) == {2, 3}


def test_the_youngest_makes_way_when_the_cache_is_full_and_comes_back_to_the_same_end() -> None:
    first, second = sequence(1, 8), sequence(2, 8)
    scheduler = scheduler_of(first, second, num_blocks=8)

    seen = []
    while first.num_generated < 14:
        seen.append(set(step(scheduler)))
    waited = second.num_generated
    scheduler.remove(first)
    for _ in range(10):
        step(scheduler)

    assert {1, 2} in seen and {1} in seen
    assert waited < first.num_generated
    assert second.num_generated > waited
    assert len(second.tokens) == 8 + second.num_generated


def test_everything_is_free_again_when_all_have_left() -> None:
    pool = BlockPool(8, block_size=4)
    scheduler = Scheduler(pool)
    sequences = [sequence(number, 10) for number in range(5)]
    for waiting in sequences:
        scheduler.add(waiting)
    for _ in range(6):
        step(scheduler)

    for leaving in sequences:
        scheduler.remove(leaving)

    assert pool.num_free == 8


def test_a_second_prompt_computes_only_what_differs_from_the_first() -> None:
    first = sequence(1, 20)
    scheduler = scheduler_of(first)
    step(scheduler)
    second = Sequence(
        id=2, tokens=[*first.tokens[:17], 1, 2, 3], sampling=SamplingParams(), max_length=100
    )
    scheduler.add(second)

    assert step(scheduler)[2] == 4
    assert second.num_cached == 16


def test_a_full_window_keeps_its_beginning_and_newest_half() -> None:
    full = Sequence(
        id=1, tokens=list(range(10)), sampling=SamplingParams(), max_length=10, num_keep=2
    )

    full.shift_window()

    assert full.tokens == [0, 1, 6, 7, 8, 9]


def test_a_shifted_sequence_computes_again_what_moved() -> None:
    full = sequence(1, 16)
    full.num_keep = 4
    scheduler = scheduler_of(full)
    step(scheduler)

    scheduler.shift(full)

    assert full.num_computed == 4
    assert step(scheduler) == {1: len(full.tokens) - 1 - 4}
