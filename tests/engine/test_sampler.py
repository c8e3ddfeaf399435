"""The sampler's laws: what each filter keeps, and that rows do not know each other."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from olla.engine.sampler import (
    Bias,
    SamplingRow,
    penalize,
    sample_one_by_one,
    sample_together,
)
from olla.options import SamplingParams

OPEN = SamplingParams(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0)
PROBABILITIES = [0.4, 0.3, 0.15, 0.1, 0.05]
STEPS = 2000

Sample = Callable[[torch.Tensor, list[SamplingRow]], list[int]]


@pytest.fixture(params=[sample_one_by_one, sample_together])
def sample(request: pytest.FixtureRequest) -> Sample:
    """The way of a CPU and that of a GPU, which runs on a CPU too."""
    found: Sample = request.param
    return found


def logits_of(probabilities: list[float]) -> torch.Tensor:
    return torch.tensor([probabilities]).log()


def draws(sample: Sample, params: SamplingParams) -> Counter[int]:
    """How often each token comes, for uniform numbers spread evenly over [0, 1)."""
    rows = [SamplingRow(params, [], (step + 0.5) / STEPS) for step in range(STEPS)]
    return Counter(sample(logits_of(PROBABILITIES).repeat(STEPS, 1), rows))


def test_without_filters_tokens_come_as_often_as_they_are_probable(sample: Sample) -> None:
    counts = draws(sample, OPEN)

    assert [counts[token] / STEPS for token in range(5)] == pytest.approx(PROBABILITIES, abs=1e-3)


@pytest.mark.parametrize(
    ("params", "kept"),
    [
        ({"top_k": 1}, {0}),
        ({"top_k": 3}, {0, 1, 2}),
        ({"top_k": 99}, {0, 1, 2, 3, 4}),
        ({"top_p": 0.0}, {0}),
        ({"top_p": 0.39}, {0}),
        ({"top_p": 0.65}, {0, 1}),
        ({"top_p": 0.71}, {0, 1, 2}),
        ({"min_p": 0.3}, {0, 1, 2}),
        ({"min_p": 2.0}, {0}),
        ({"top_k": 2, "top_p": 0.5}, {0}),
        ({"typical_p": 0.2}, {1}),
        ({"typical_p": 0.9}, {0, 1, 2, 3}),
        ({"temperature": 0.0}, {0}),
        ({"temperature": 1e-30}, {0}),
        ({"temperature": -1.0}, {0}),
    ],
)
def test_a_filter_keeps(sample: Sample, params: dict[str, Any], kept: set[int]) -> None:
    assert set(draws(sample, replace(OPEN, **params))) == kept


def test_temperature_comes_after_the_filters(sample: Sample) -> None:
    """A high temperature evens out what top-p left; it lets nothing back in."""
    counts = draws(sample, replace(OPEN, top_p=0.65, temperature=1000.0))

    assert [counts[0] / STEPS, counts[1] / STEPS] == pytest.approx([0.5, 0.5], abs=0.01)


def test_a_row_is_drawn_the_same_in_any_batch(sample: Sample) -> None:
    torch.manual_seed(0)
    logits = torch.randn(6, 100) * 3
    rows = [
        SamplingRow(replace(OPEN, temperature=0.7, top_k=5), [], 0.3),
        SamplingRow(replace(OPEN, temperature=0.0), [1, 2], 0.9),
        SamplingRow(replace(OPEN, top_p=0.5), [], 0.99),
        SamplingRow(replace(OPEN, min_p=0.1, repeat_penalty=1.3), [3, 3, 4], 0.5),
        SamplingRow(replace(OPEN, typical_p=0.5), [], 0.1),
        SamplingRow(replace(OPEN, top_k=1), [], 0.2),
    ]

    together = sample(logits.clone(), rows)

    alone = [sample(logits[index : index + 1].clone(), [row])[0] for index, row in enumerate(rows)]
    assert together == alone


@pytest.mark.parametrize("params", [{"temperature": 0.0}, {"top_k": 40}])
def test_equal_logits_are_drawn_from_the_same_in_any_batch(
    sample: Sample, params: dict[str, Any]
) -> None:
    """Logits from bfloat16 are often equal, and a batch's other rows may want more of them."""
    torch.manual_seed(0)
    row, other = SamplingRow(replace(OPEN, **params), [], 0.5), SamplingRow(OPEN, [], 0.5)
    for _ in range(200):
        logits = (torch.randn(2, 3000) * 2).bfloat16().float()

        assert sample(logits.clone(), [row, other])[0] == sample(logits[:1].clone(), [row])[0]


def test_no_temperature_is_too_high(sample: Sample) -> None:
    assert set(draws(sample, replace(OPEN, top_k=3, temperature=1e300, min_p=0.3))) == {0, 1, 2}


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"repeat_penalty": 2.0}, [1.0, -2.0, 3.0]),
        ({"presence_penalty": 0.5}, [1.5, -1.5, 3.0]),
        ({"frequency_penalty": 0.5}, [1.0, -1.5, 3.0]),
        ({"repeat_penalty": 2.0, "frequency_penalty": 0.5}, [0.0, -2.5, 3.0]),
        ({"repeat_penalty": 2.0, "repeat_last_n": 1}, [2.0, -2.0, 3.0]),
        ({"repeat_penalty": 2.0, "repeat_last_n": 0}, [2.0, -1.0, 3.0]),
        ({"repeat_penalty": 2.0, "repeat_last_n": -1}, [1.0, -2.0, 3.0]),
        ({"repeat_penalty": 0.0}, [2.0, -1.0, 3.0]),
        ({"repeat_penalty": math.nan, "presence_penalty": math.nan}, [2.0, -1.0, 3.0]),
        ({}, [2.0, -1.0, 3.0]),
    ],
)
def test_penalties_lower_what_was_seen(params: dict[str, Any], expected: list[float]) -> None:
    logits = torch.tensor([2.0, -1.0, 3.0])

    penalize(logits, replace(OPEN, **params), [0, 0, 1])

    assert logits.tolist() == pytest.approx(expected)


def test_greedy_follows_the_penalties(sample: Sample) -> None:
    row = SamplingRow(replace(OPEN, temperature=0.0, repeat_penalty=10.0), [2], 0.5)

    assert sample(torch.tensor([[2.0, 1.0, 3.0]]), [row]) == [0]


def test_greedy_takes_the_first_of_equal_logits(sample: Sample) -> None:
    row = SamplingRow(replace(OPEN, temperature=0.0), [], 0.5)

    assert sample(torch.tensor([[1.0, 3.0, 3.0], [2.0, 2.0, 0.0]]), [row, row]) == [1, 0]


@pytest.mark.parametrize("params", [{"top_k": 2}, {"top_p": 0.65}, {"typical_p": 0.5}])
def test_no_uniform_number_draws_a_token_that_a_filter_removed(
    sample: Sample, params: dict[str, Any]
) -> None:
    rows = [
        SamplingRow(replace(OPEN, **params), [], u) for u in (0.0, 1 - 2**-53, math.nextafter(1, 0))
    ]

    assert set(sample(logits_of(PROBABILITIES).repeat(3, 1), rows)) <= {0, 1, 2} - (
        set() if "typical_p" in params else {2}
    )


def mask_of(*allowed: int) -> NDArray[np.uint8]:
    return np.packbits([token in allowed for token in range(5)], bitorder="little")


@pytest.mark.parametrize("params", [{"temperature": 0.0}, {"top_k": 1}, {"top_k": 4}, {}])
def test_what_a_mask_forbids_is_never_drawn(sample: Sample, params: dict[str, Any]) -> None:
    rows = [
        SamplingRow(replace(OPEN, **params), [], (step + 0.5) / 100, mask=mask_of(2, 4))
        for step in range(100)
    ]

    assert set(sample(logits_of(PROBABILITIES).repeat(100, 1), rows)) <= {2, 4}


def test_rows_without_a_mask_are_left_alone(sample: Sample) -> None:
    greedy = replace(OPEN, temperature=0.0)
    rows = [SamplingRow(greedy, [], 0.5), SamplingRow(greedy, [], 0.5, mask=mask_of(3))]

    assert sample(logits_of(PROBABILITIES).repeat(2, 1), rows) == [0, 3]


def test_a_bias_is_added_before_the_penalties_and_the_filters(sample: Sample) -> None:
    bias = Bias.of({4: 100.0, 0: -100.0}, torch.device("cpu"))
    rows = [
        SamplingRow(replace(OPEN, top_k=1), [], 0.5, bias),
        SamplingRow(replace(OPEN, temperature=0.0, repeat_penalty=1000.0), [4], 0.5, bias),
    ]

    assert sample(logits_of(PROBABILITIES).repeat(2, 1), rows) == [4, 4]


def test_no_bias_is_none() -> None:
    assert Bias.of({}, torch.device("cpu")) is None


def test_the_filters_run_in_llama_cpps_order(sample: Sample) -> None:
    """Top-p counts what top-k left: of 0.4 and 0.3, it is 0.57 that the first has."""
    assert set(draws(sample, replace(OPEN, top_k=2, top_p=0.56))) == {0}
    assert set(draws(sample, replace(OPEN, top_k=0, top_p=0.56))) == {0, 1}


def test_typical_p_comes_between_top_k_and_top_p(sample: Sample) -> None:
    """Of all tokens the second is the most typical, though top-p alone would leave the first."""
    assert set(draws(sample, replace(OPEN, top_k=1, typical_p=0.2))) == {0}
    assert set(draws(sample, replace(OPEN, typical_p=0.2, top_p=0.39))) == {1}


@pytest.mark.parametrize(
    "params",
    [
        {"top_k": 40, "top_p": 0.9, "temperature": 0.8, "repeat_penalty": 1.1},
        {"top_k": 1000, "min_p": 0.001},
        {"temperature": 3.0},
        {"top_p": 0.5},
        {"top_p": 0.999, "min_p": 0.0001},
        {"min_p": 0.01, "temperature": 2.0},
        {"typical_p": 0.6},
        {"typical_p": 0.95, "top_k": 300, "top_p": 0.9},
    ],
)
def test_both_ways_draw_the_same(params: dict[str, Any]) -> None:
    """Wide rows, of which a CPU puts only the likeliest in order; whatever is drawn."""
    torch.manual_seed(0)
    logits = torch.randn(40, 6000) * torch.linspace(0.1, 5, 40)[:, None]
    rows = [
        SamplingRow(replace(OPEN, **params), [step, 7], (step * 7 % 40 + 0.5) / 40, mask=mask)
        for step in range(40)
        for mask in [np.full(750, 0b10110111, np.uint8) if step % 3 else None]
    ]

    assert sample_one_by_one(logits.clone(), rows) == sample_together(logits.clone(), rows)


def test_all_of_a_flat_row_comes_in_order() -> None:
    """The draw goes further than the likeliest that are looked at first."""
    rows = [SamplingRow(OPEN, [], (token + 0.5) / 3000) for token in range(3000)]

    assert sample_one_by_one(torch.zeros(3000, 3000), rows) == list(range(3000))


@pytest.mark.parametrize("params", [{"temperature": 0.0}, {}, {"top_k": 40}, {"typical_p": 0.5}])
@pytest.mark.parametrize("logit", [math.nan, math.inf, -math.inf])
def test_a_broken_model_has_tokens_all_the_same(params: dict[str, Any], logit: float) -> None:
    row = SamplingRow(replace(OPEN, **params), [], 0.5)

    assert sample_one_by_one(torch.full((1, 3000), logit), [row]) == [0]
