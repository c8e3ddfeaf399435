"""The GPU bench, with a tiny model on the CPU."""

from __future__ import annotations

import torch

from olla.engine.engine import Engine
from tests.bench.gpu import SHAPES, copy_bytes_per_s, measure, random_model

CPU = torch.device("cpu")


def test_the_bench_runs_on_any_device() -> None:
    model = random_model(SHAPES["tiny"], CPU)

    one, two = measure(Engine(model, 1024), [1, 2], num_tokens=4, limit=100.0, rounds=1)

    assert (one.streams, two.streams) == (1, 2)
    assert one.tokens_per_s > 0
    assert one.share == one.tokens_per_s / 100
    assert two.share == two.tokens_per_s / 2 / 100


def test_the_bytes_are_those_of_the_matrices_in_bfloat16() -> None:
    shape = SHAPES["tiny"]
    hidden, wide = shape["hidden_size"], shape["intermediate_size"]
    layer = hidden * (hidden + 2 * 32) + hidden * hidden + 3 * hidden * wide
    total = 2 * shape["vocab_size"] * hidden + shape["num_hidden_layers"] * layer

    assert random_model(shape, CPU).num_bytes == 2 * total


def test_copying_is_timed() -> None:
    assert copy_bytes_per_s(CPU, 1000, rounds=2) > 0
