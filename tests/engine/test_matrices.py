"""Quantized matrices multiply as the numbers they stand for."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch

from olla.engine.matrices import Blocks, Dense, Int4, Int8, Matrix, Stacked
from olla.engine.weights.four_bit import FOUR_BIT_TYPES, four_bit_blocks
from olla.formats.ggml_types import GgmlType

ROWS, COLUMNS = 48, 256
# One row, the most rows that the packed kernels take, and past that.
BATCHES = [1, 24, 25, 60]


def blocks(seed: int = 0) -> Blocks:
    torch.manual_seed(seed)
    groups = (ROWS, COLUMNS // 32)
    # Scales and offsets that bfloat16 holds exactly, so that only the product rounds.
    return Blocks(
        torch.randint(0, 16, (ROWS, COLUMNS), dtype=torch.uint8),
        torch.rand(groups).bfloat16().float(),
        torch.randn(groups).bfloat16().float(),
    )


def numbers(source: Blocks) -> torch.Tensor:
    grouped = source.values.float().reshape(ROWS, -1, 32)
    return (grouped * source.scales[..., None] + source.offsets[..., None]).reshape(ROWS, COLUMNS)


def assert_close(found: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    assert found.dtype is torch.bfloat16
    assert (found.float() - expected).norm() <= tolerance * expected.norm()


@pytest.mark.parametrize("num_rows", BATCHES)
def test_four_bits_multiply_as_their_numbers(num_rows: int) -> None:
    source = blocks()
    inputs = torch.randn(num_rows, COLUMNS).bfloat16()

    found = Int4(source).multiply(inputs)

    assert_close(found, inputs.float() @ numbers(source).T, 1e-2)


@pytest.mark.parametrize("num_rows", BATCHES)
def test_eight_bits_multiply_as_their_numbers(num_rows: int) -> None:
    torch.manual_seed(0)
    weights = torch.randn(ROWS, COLUMNS)
    inputs = torch.randn(num_rows, COLUMNS).bfloat16()

    found = Int8(weights).multiply(inputs)

    assert_close(found, inputs.float() @ weights.T, 2e-2)


def test_rows_are_looked_up_in_every_precision() -> None:
    source = blocks()
    where = torch.tensor([3, 0, 47, 3])
    weights = numbers(source)

    for table in (Int4(source), Int8(weights), Dense(weights.bfloat16())):
        assert_close(table.rows(where), weights[where], 2e-2)


def test_a_row_of_zeros_stays_zero() -> None:
    table = Int8(torch.zeros(2, 64))

    assert table.multiply(torch.ones(1, 64).bfloat16()).abs().sum() == 0


def test_stacked_matrices_give_their_outputs_side_by_side() -> None:
    weights = torch.randn(ROWS, COLUMNS)
    inputs = torch.randn(2, COLUMNS).bfloat16()
    parts: list[Matrix] = [Int4(blocks()), Int8(weights)]

    stacked = Stacked(parts)

    assert stacked.shape == (2 * ROWS, COLUMNS)
    expected = torch.cat([part.multiply(inputs) for part in parts], dim=1)
    assert torch.equal(stacked.multiply(inputs), expected)


def test_four_bits_take_less_than_half_of_half_precision() -> None:
    source = blocks()

    assert Int4(source).num_bytes < 0.8 * numbers(source).bfloat16().nbytes
    assert Int8(numbers(source)).num_bytes < 0.6 * numbers(source).bfloat16().nbytes


@pytest.mark.parametrize("kind", sorted(FOUR_BIT_TYPES))
def test_a_files_blocks_are_read_without_loss(kind: GgmlType) -> None:
    """Against the gguf package, on random bytes with scales that are numbers."""
    quantization = gguf.GGMLQuantizationType(int(kind))
    block, size = gguf.GGML_QUANT_SIZES[quantization]
    random = np.random.default_rng(0)
    raw = random.integers(0, 256, (ROWS * COLUMNS // block, size), dtype=np.uint8)
    scales = random.normal(size=(len(raw), 2)).astype(np.float16).view(np.uint8)
    num_scale_bytes = 2 if kind is GgmlType.Q4_0 else 4
    raw[:, :num_scale_bytes] = scales[:, :num_scale_bytes]
    raw = raw.reshape(ROWS, -1)

    found = numbers(four_bit_blocks(raw.reshape(-1), kind, (ROWS, COLUMNS)))

    expected = gguf.quants.dequantize(raw, quantization)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6, atol=1e-6)
