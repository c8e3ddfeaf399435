"""What is quantized reads back as nearly what it was."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch

from olla.engine.conversion.quants import quantize
from olla.errors import FormatError
from olla.formats.ggml_types import GgmlType

# The error of a normal distribution, as a part of its deviation; llama.cpp's own is as large.
LIMITS = {
    GgmlType.F16: 0.0004, GgmlType.BF16: 0.002, GgmlType.Q8_0: 0.006, GgmlType.Q6_K: 0.019,
    GgmlType.Q5_K: 0.038, GgmlType.Q5_1: 0.042, GgmlType.Q5_0: 0.045, GgmlType.Q4_K: 0.076,
    GgmlType.Q4_1: 0.082, GgmlType.Q4_0: 0.09,
}  # fmt: skip


def read_back(rows: torch.Tensor, kind: GgmlType) -> np.ndarray:
    made = quantize(rows, kind)
    assert made.shape == (len(rows), rows.shape[1] // kind.block_elements * kind.block_bytes)
    values: np.ndarray = gguf.quants.dequantize(made, gguf.GGMLQuantizationType(int(kind)))
    return values


@pytest.mark.parametrize(("kind", "limit"), LIMITS.items())
def test_the_error_is_as_small_as_the_type_allows(kind: GgmlType, limit: float) -> None:
    torch.manual_seed(0)
    rows = torch.randn(24, 512) * torch.rand(24, 1)

    error = read_back(rows, kind) - rows.numpy()

    assert np.sqrt((error**2).mean()) <= limit * float(rows.square().mean().sqrt())


@pytest.mark.parametrize("kind", [GgmlType.Q4_K, GgmlType.Q5_K, GgmlType.Q6_K])
@pytest.mark.parametrize("value", [0.0, 1.0, -2.5])
def test_blocks_of_one_value_keep_it(kind: GgmlType, value: float) -> None:
    rows = torch.full((2, 256), value)

    assert read_back(rows, kind) == pytest.approx(value, rel=0.02)


def test_rows_that_are_no_whole_blocks_are_refused() -> None:
    with pytest.raises(FormatError, match="rows of 288 are not whole Q4_K blocks"):
        quantize(torch.zeros(2, 288), GgmlType.Q4_K)


def test_types_that_nobody_makes_are_refused() -> None:
    with pytest.raises(FormatError, match="cannot make IQ4_NL"):
        quantize(torch.zeros(2, 256), GgmlType.IQ4_NL)
