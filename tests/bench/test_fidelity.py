"""Perplexity, divergence, and the file of llama-perplexity, on numbers that can be checked."""

from __future__ import annotations

import math
import struct

import pytest
import torch

from tests.bench.fidelity import Prediction, read_prediction, table

WINDOWS = torch.tensor([[0, 1, 2, 1]])
EVEN = Prediction(WINDOWS, torch.full((1, 1, 4), math.log(0.25)))
SURE = Prediction(WINDOWS, torch.tensor([[[0.1, 0.7, 0.1, 0.1]]]).log())


def test_perplexity_is_the_number_of_even_choices() -> None:
    assert EVEN.perplexity == pytest.approx(4.0)
    assert SURE.perplexity == pytest.approx(1 / 0.7)


def test_nothing_diverges_from_itself() -> None:
    assert EVEN.divergence_from(EVEN) == 0.0
    expected = 0.25 * (math.log(0.25 / 0.7) + 3 * math.log(0.25 / 0.1))
    assert SURE.divergence_from(EVEN) == pytest.approx(expected)


def test_the_file_of_llama_perplexity_is_read() -> None:
    scale, least = 0.5, -4.0
    steps = [0, 2, 4, 6, 8, 0]  # five tokens, padded to an even number
    data = b"_logits_" + struct.pack("<3i", 4, 5, 1) + struct.pack("<4i", 0, 1, 2, 1)
    data += struct.pack("<2f", scale, least) + struct.pack("<6H", *steps)

    found = read_prediction(data)

    assert torch.equal(found.windows, WINDOWS)
    assert found.logprobs.tolist() == [[[-4.0, -3.0, -2.0, -1.0, 0.0]]]


def test_another_file_is_refused() -> None:
    with pytest.raises(ValueError, match="llama-perplexity"):
        read_prediction(b"GGUF" + bytes(100))


def test_other_tokens_stop_the_comparison() -> None:
    other = Prediction(WINDOWS + 1, EVEN.logprobs)

    with pytest.raises(RuntimeError, match="other tokens"):
        table(EVEN, {"other": other})


def test_the_table_has_float32_first() -> None:
    lines = table(EVEN, {"sure": SURE}).splitlines()

    assert lines[2] == "| float32 | 4.000 | 0.00000 |"
    assert lines[3].startswith("| sure | 1.429 |")
