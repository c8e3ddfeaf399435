"""Drafts grow while they pay by what was measured, and are tried again when they did not."""

from __future__ import annotations

import pytest

from olla.engine.speculation import MAX_DRAFT, MAX_DRAFT_ROWS, Acceptance, Offer, StepCosts


def measured(num_sequences: int = 1, row_s: float = 0.1) -> StepCosts:
    """Plain steps take a second."""
    costs = StepCosts()
    costs.note(num_sequences, 0, 1.0)
    costs.note(num_sequences, 10, 1.0 + 10 * row_s)
    return costs


def test_nothing_is_drafted_before_a_plain_step_was_measured() -> None:
    assert StepCosts().lengths([Offer(1.0, 9)]) == [0]


def test_the_first_wider_step_is_little_wider() -> None:
    costs = StepCosts()
    costs.note(2, 0, 1.0)

    assert costs.lengths([Offer(0.9, 9), Offer(0.9, 9)]) == [1, 1]


@pytest.mark.parametrize(("probability", "length"), [(0.99, MAX_DRAFT), (0.7, 4), (0.1, 0)])
def test_the_more_certain_the_longer(probability: float, length: int) -> None:
    found = measured().lengths([Offer(probability, 99)])

    assert found == [pytest.approx(length, abs=1)]


def test_a_batch_that_keeps_the_machine_busy_drafts_none() -> None:
    busy = measured(num_sequences=16, row_s=1 / 16)

    assert busy.lengths([Offer(0.9, 9)] * 16) == [0] * 16


def test_rows_go_to_the_likeliest_and_have_a_bound() -> None:
    lengths = measured(num_sequences=8, row_s=0.0).lengths([Offer(0.5, 9), *[Offer(0.9, 99)] * 7])

    assert sum(lengths) == MAX_DRAFT_ROWS
    assert lengths[0] < min(lengths[1:])


def test_a_model_that_takes_as_long_as_it_saves_drafts_none() -> None:
    assert measured().lengths([Offer(0.8, 9, token_s=0.9)]) == [0]


def test_plain_steps_are_measured_again_now_and_then() -> None:
    costs = measured()
    wide = 0
    while costs.lengths([Offer(0.99, 4)]) != [0]:
        costs.note(1, 4, 1.4)
        wide += 1

    assert 0 < wide < 100


def test_a_row_that_was_measured_dear_is_tried_again() -> None:
    costs = measured(row_s=1.0)
    plain = 0
    while costs.lengths([Offer(0.9, 9)]) == [0]:
        costs.note(1, 0, 1.0)
        plain += 1

    assert 10 < plain < 1000


def test_acceptance_follows_what_was_accepted() -> None:
    acceptance = Acceptance(0.5)
    for _ in range(20):
        acceptance.note(8, 8)
    good = acceptance.probability
    for _ in range(20):
        acceptance.note(0, 8)

    assert good > 0.9
    assert acceptance.probability < 0.2


def test_acceptance_comes_back_to_its_prior() -> None:
    acceptance = Acceptance(0.5)
    for _ in range(20):
        acceptance.note(0, 4)
    for _ in range(2000):
        acceptance.forget()

    assert acceptance.probability == pytest.approx(0.5, abs=0.01)
