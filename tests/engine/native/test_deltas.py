"""Deltas as the compiled core reads them: in how many bits, and in which order."""

from __future__ import annotations

import pytest
import torch

from olla.engine.linear import Delta
from olla.engine.native.deltas import LOSS, TILE, core_delta, narrowed, tiled
from olla.engine.native.library import Core
from olla.engine.native.packed import Packing


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_delta_is_kept_in_as_many_bits_as_its_file_has(dtype: torch.dtype) -> None:
    a, b = (torch.randn(4, 4).to(dtype).float() for _ in range(2))

    low, high = narrowed(a, b * 0.5, loss=0.0)

    assert low is not None
    assert high is not None
    assert low.itemsize == high.itemsize == dtype.itemsize
    assert torch.equal(low.float(), a)
    assert torch.equal(high.float(), b * 0.5)


@pytest.mark.parametrize(
    ("size", "dtype"),
    [(1e-2, torch.float16), (1e5, torch.bfloat16), (1e-7, torch.bfloat16), (3.4e38, torch.float32)],
)
def test_a_delta_of_any_size_is_kept_in_16_bits_that_hold_it(
    size: float, dtype: torch.dtype
) -> None:
    a, b = size * torch.linspace(-1, 1, 64).view(4, 16), torch.randn(16, 4)

    low, high = narrowed(a, b, LOSS)

    assert low is not None
    assert high is not None
    assert low.dtype is high.dtype is dtype
    assert torch.dist(low.float() / size, a / size) <= LOSS * (a / size).norm()


def test_a_float32_base_has_deltas_as_the_file_says_and_others_in_16_bits(core: Core) -> None:
    packing, weights = Packing(core), torch.randn(32, 64)
    delta = Delta(0, 32, torch.randn(4, 64), torch.randn(32, 4))

    exact = core_delta(delta, packing.dense(weights))
    short = core_delta(delta, packing.eight_bit(weights))
    wide = core_delta(delta, packing.dense(weights.bfloat16()))

    assert exact.a is not None
    assert short.a is not None
    assert wide.a is not None
    assert (exact.a.dtype, short.a.dtype, wide.a.dtype) == (
        torch.float32, torch.float16, torch.float16,
    )  # fmt: skip


def test_outputs_stand_in_tiles_the_last_filled_up() -> None:
    b = torch.randn(TILE + 4, 3)

    tiles = tiled(b)

    assert tiles.shape == (2, 3, TILE)
    rows = tiles.transpose(1, 2).reshape(-1, 3)
    assert torch.equal(rows[: len(b)], b)
    assert not rows[len(b) :].any()
