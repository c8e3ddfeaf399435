"""Products of packed matrices are those of their weights, within what 8-bit activations cost."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch
from torch import Tensor

from olla.engine.matrices import Blocks, RawTensor
from olla.engine.native.library import Core
from olla.engine.native.packed import Packed, Packing
from olla.formats.ggml_types import GgmlType

SHAPES = [(8, 32), (1, 32), (13, 96), (64, 576), (100, 128)]
CPU = torch.device("cpu")
COUNTS = [1, 3, 4, 7, 70]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def four_bit(rows: int, columns: int) -> tuple[Blocks, Tensor]:
    """Blocks, and the weights that they stand for."""
    values = torch.randint(0, 16, (rows, columns), dtype=torch.uint8)
    scales = torch.rand(rows, columns // 32).half().float()
    offsets = -8 * torch.rand(rows, columns // 32).half().float()
    groups = values.view(rows, -1, 32) * scales[..., None] + offsets[..., None]
    return Blocks(values, scales, offsets), groups.view(rows, columns)


def check(matrix: Packed, weights: Tensor, tolerance: float) -> None:
    """Rows are the weights; products are theirs, as a part of the largest that could be."""
    assert torch.allclose(matrix.rows(torch.arange(len(weights))), weights, rtol=1e-3, atol=1e-4)
    for count in COUNTS:
        inputs = torch.randn(count, weights.shape[1])
        bound = inputs.abs() @ weights.abs().T
        error = (matrix.multiply(inputs) - inputs @ weights.T).abs()
        assert (error <= tolerance * bound + 1e-6).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_four_bits(core: Core, shape: tuple[int, int]) -> None:
    blocks, weights = four_bit(*shape)

    check(Packing(core).four_bit(blocks), weights, tolerance=1 / 127)


@pytest.mark.parametrize("shape", SHAPES)
def test_eight_bits(core: Core, shape: tuple[int, int]) -> None:
    scales = torch.rand(shape[0], shape[1] // 32, 1).half().float()
    values = torch.randint(-127, 128, (shape[0], shape[1] // 32, 32))
    values[..., 0] = 127  # so that the scale found is the one that was meant
    weights = (values * scales).view(shape)

    check(Packing(core).eight_bit(weights), weights, tolerance=1 / 127)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [*SHAPES, (9, 7), (16, 33)])
def test_floats(core: Core, shape: tuple[int, int], dtype: torch.dtype) -> None:
    weights = torch.randn(shape).to(dtype)

    check(Packing(core).dense(weights), weights.float(), tolerance=1e-5)


def test_parts_of_different_kinds_give_their_outputs_side_by_side(core: Core) -> None:
    packing = Packing(core)
    blocks, _ = four_bit(20, 64)
    eight, whole = torch.randn(12, 64), torch.randn(5, 64)
    parts = [packing.four_bit(blocks), packing.eight_bit(eight), packing.dense(whole)]

    stacked = packing.stack(parts)

    inputs = torch.randn(3, 64)
    apart = torch.cat([part.multiply(inputs) for part in parts], dim=-1)
    assert stacked.shape == (37, 64)
    assert torch.equal(stacked.multiply(inputs), apart)
    assert torch.equal(stacked.rows(torch.tensor([32])), whole[:1])


def test_a_row_of_a_product_does_not_depend_on_the_others(core: Core) -> None:
    blocks, _ = four_bit(64, 128)
    matrix = Packing(core).four_bit(blocks)
    inputs = torch.randn(9, 128)

    alone = torch.cat([matrix.multiply(row[None]) for row in inputs])

    assert torch.equal(matrix.multiply(inputs), alone)


def test_inputs_of_zero_give_zero(core: Core) -> None:
    blocks, _ = four_bit(8, 32)

    assert not Packing(core).four_bit(blocks).multiply(torch.zeros(2, 32)).any()


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q8_0"])
def test_blocks_of_a_file_are_packed_as_they_are(core: Core, kind: str) -> None:
    weights = np.random.default_rng(1).normal(size=(21, 64)).astype(np.float32)
    quantization = gguf.GGMLQuantizationType[kind]
    raw = gguf.quants.quantize(weights, quantization)
    order = torch.randperm(21, dtype=torch.int32)

    matrix = Packing(core).filed(
        RawTensor(GgmlType[kind], (21, 64), raw.ravel(), order, lambda: 0), CPU
    )

    assert matrix is not None
    expected = torch.from_numpy(gguf.quants.dequantize(raw, quantization))[order.long()]
    assert torch.allclose(matrix.rows(torch.arange(21)), expected, rtol=1e-3, atol=1e-3)


def test_four_bit_super_blocks_of_a_file_are_packed_as_they_are(core: Core) -> None:
    raw = np.random.default_rng(1).integers(0, 256, (5, 144 * 2), dtype=np.uint8)
    raw.reshape(-1, 144)[:, :4] = np.array([0.5, 0.25], np.float16).view(np.uint8)

    matrix = Packing(core).filed(
        RawTensor(GgmlType.Q4_K, (5, 512), raw.ravel(), None, lambda: 0), CPU
    )

    assert matrix is not None
    expected = torch.from_numpy(gguf.quants.dequantize(raw, gguf.GGMLQuantizationType.Q4_K))
    assert torch.allclose(matrix.rows(torch.arange(5)), expected, rtol=1e-3, atol=1e-2)


def test_other_blocks_of_a_file_are_left_to_be_read(core: Core) -> None:
    raw = RawTensor(GgmlType.Q6_K, (1, 256), np.zeros(210, np.uint8), None, lambda: 0)

    assert Packing(core).filed(raw, CPU) is None
