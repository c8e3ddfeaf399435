"""The sampler's laws: what each filter keeps, and that rows do not know each other."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from olla.engine.sampler import Bias, SamplingRow, penalize, sample
from olla.options import SamplingParams

OPEN = SamplingParams(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0)
PROBABILITIES = [0.4, 0.3, 0.15, 0.1, 0.05]
STEPS = 2000


def logits_of(probabilities: list[float]) -> torch.Tensor:
    return torch.tensor([probabilities]).log()


def draws(params: SamplingParams) -> Counter[int]:
    """How often each token comes, for uniform numbers spread evenly over [0, 1)."""
    rows = [SamplingRow(params, [], (step + 0.5) / STEPS) for step in range(STEPS)]
    return Counter(sample(logits_of(PROBABILITIES).repeat(STEPS, 1), rows))


def test_without_filters_tokens_come_as_often_as_they_are_probable() -> None:
    counts = draws(OPEN)

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
def test_a_filter_keeps(params: dict[str, Any], kept: set[int]) -> None:
    assert set(draws(replace(OPEN, **params))) == kept


def test_temperature_comes_after_the_filters() -> None:
    """A high temperature evens out what top-p left; it lets nothing back in."""
    counts = draws(replace(OPEN, top_p=0.65, temperature=1000.0))

    assert [counts[0] / STEPS, counts[1] / STEPS] == pytest.approx([0.5, 0.5], abs=0.01)


def test_a_row_is_drawn_the_same_in_any_batch() -> None:
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
def test_equal_logits_are_drawn_from_the_same_in_any_batch(params: dict[str, Any]) -> None:
    """Logits from bfloat16 are often equal, and a batch's other rows may want more of them."""
    torch.manual_seed(0)
    row, other = SamplingRow(replace(OPEN, **params), [], 0.5), SamplingRow(OPEN, [], 0.5)
    for _ in range(200):
        logits = (torch.randn(2, 3000) * 2).bfloat16().float()

        assert sample(logits.clone(), [row, other])[0] == sample(logits[:1].clone(), [row])[0]


def test_no_temperature_is_too_high() -> None:
    assert set(draws(replace(OPEN, top_k=3, temperature=1e300, min_p=0.3))) == {0, 1, 2}


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


def test_greedy_follows_the_penalties() -> None:
    row = SamplingRow(replace(OPEN, temperature=0.0, repeat_penalty=10.0), [2], 0.5)

    assert sample(torch.tensor([[2.0, 1.0, 3.0]]), [row]) == [0]


def test_greedy_takes_the_first_of_equal_logits() -> None:
    row = SamplingRow(replace(OPEN, temperature=0.0), [], 0.5)

    assert sample(torch.tensor([[1.0, 3.0, 3.0], [2.0, 2.0, 0.0]]), [row, row]) == [1, 0]


@pytest.mark.parametrize("params", [{"top_k": 2}, {"top_p": 0.65}, {"typical_p": 0.5}])
def test_no_uniform_number_draws_a_token_that_a_filter_removed(params: dict[str, Any]) -> None:
    rows = [
        SamplingRow(replace(OPEN, **params), [], u) for u in (0.0, 1 - 2**-53, math.nextafter(1, 0))
    ]

    assert set(sample(logits_of(PROBABILITIES).repeat(3, 1), rows)) <= {0, 1, 2} - (
        set() if "typical_p" in params else {2}
    )


def mask_of(*allowed: int) -> NDArray[np.uint8]:
    return np.packbits([token in allowed for token in range(5)], bitorder="little")


@pytest.mark.parametrize("params", [{"temperature": 0.0}, {"top_k": 1}, {"top_k": 4}, {}])
def test_what_a_mask_forbids_is_never_drawn(params: dict[str, Any]) -> None:
    rows = [
        SamplingRow(replace(OPEN, **params), [], (step + 0.5) / 100, mask=mask_of(2, 4))
        for step in range(100)
    ]

    assert set(sample(logits_of(PROBABILITIES).repeat(100, 1), rows)) <= {2, 4}


def test_rows_without_a_mask_are_left_alone() -> None:
    greedy = replace(OPEN, temperature=0.0)
    rows = [SamplingRow(greedy, [], 0.5), SamplingRow(greedy, [], 0.5, mask=mask_of(3))]

    assert sample(logits_of(PROBABILITIES).repeat(2, 1), rows) == [0, 3]


def test_a_bias_is_added_before_the_penalties_and_the_filters() -> None:
    bias = Bias.of({4: 100.0, 0: -100.0}, torch.device("cpu"))
    rows = [
        SamplingRow(replace(OPEN, top_k=1), [], 0.5, bias),
        SamplingRow(replace(OPEN, temperature=0.0, repeat_penalty=1000.0), [4], 0.5, bias),
    ]

    assert sample(logits_of(PROBABILITIES).repeat(2, 1), rows) == [4, 4]


def test_no_bias_is_none() -> None:
    assert Bias.of({}, torch.device("cpu")) is None


def test_the_filters_run_in_llama_cpps_order() -> None:
    """Top-p counts what top-k left: of 0.4 and 0.3, it is 0.57 that the first has."""
    assert set(draws(replace(OPEN, top_k=2, top_p=0.56))) == {0}
    assert set(draws(replace(OPEN, top_k=0, top_p=0.56))) == {0, 1}


def test_typical_p_comes_between_top_k_and_top_p() -> None:
    """Of all tokens the second is the most typical, though top-p alone would leave the first."""
    assert set(draws(replace(OPEN, top_k=1, typical_p=0.2))) == {0}
    assert set(draws(replace(OPEN, typical_p=0.2, top_p=0.39))) == {1}
