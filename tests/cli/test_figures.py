"""Rates of a round, and the figures of several rounds."""

from __future__ import annotations

import pytest

from olla.cli.figures import Figure, figure_of, format_figure, prompt_of, round_of
from olla.client.timing import TimedReply


def reply(*pieces_s: float, started_s: float = 0.0, num_tokens: int = 0) -> TimedReply:
    return TimedReply(started_s, pieces_s, 100, num_tokens or len(pieces_s))


def test_one_stream_is_timed_from_its_first_token_to_its_last() -> None:
    found = round_of([reply(2.0, 2.5, 3.0, 3.5, 4.0)])

    assert (found.ttft_s, found.prefill, found.decode) == (2.0, 50.0, 2.0)
    assert (found.num_prompt_tokens, found.num_tokens) == (100, 5)


def test_tokens_count_while_all_streams_are_replying() -> None:
    early = reply(1.0, 2.0, 3.0, 4.0, 5.0)
    late = reply(3.0, 4.0, 5.0, 6.0, 7.0)

    found = round_of([early, late])

    assert found.decode == 2.0  # two each from 3 s, exclusive, to 5 s
    assert found.ttft_s == 2.0
    assert found.prefill == pytest.approx(200 / 3)


def test_streams_that_wait_for_each_other_are_timed_as_one() -> None:
    first, second = reply(1.0, 2.0, 3.0), reply(4.0, 5.0, 6.0)

    assert round_of([first, second]).decode == pytest.approx(5 / 5)


def test_a_piece_of_several_tokens_counts_as_many() -> None:
    assert round_of([reply(1.0, 2.0, 3.0, 4.0, num_tokens=8)]).decode == pytest.approx(2.0)


def test_a_reply_in_one_piece_has_no_rate() -> None:
    assert round_of([reply(1.0)]).decode == 0.0
    assert format_figure(figure_of([0.0, 0.0])) == "-"


def test_a_round_has_as_many_tokens_as_its_shortest_reply() -> None:
    assert round_of([reply(1.0, 2.0), reply(1.0, 2.0, 3.0)]).num_tokens == 2


def test_a_figure_is_the_median_and_the_range() -> None:
    assert figure_of([5.0, 1.0, 2.0]) == Figure(median=2.0, low=1.0, high=5.0)


@pytest.mark.parametrize(
    ("samples", "text"),
    [
        ([1234.6], "1,235 (1,235 to 1,235)"),
        ([34.14, 33.0, 35.0], "34.1 (33.0 to 35.0)"),
        ([2.345], "2.35 (2.35 to 2.35)"),
        ([0.0425], "0.043 (0.043 to 0.043)"),
    ],
)
def test_a_figure_shows_three_digits(samples: list[float], text: str) -> None:
    assert format_figure(figure_of(samples)) == text


def test_a_prompt_is_the_same_for_a_seed_and_begins_differently_for_another() -> None:
    prompts = [prompt_of(16, seed) for seed in range(1000)]

    assert prompts == [prompt_of(16, seed) for seed in range(1000)]
    assert len({tuple(prompt.split()[:8]) for prompt in prompts}) == 1000
    assert all(len(prompt.split()) == 16 for prompt in prompts)
