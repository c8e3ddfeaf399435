"""Products of packed matrices are those of their weights, within what 8-bit activations cost."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from olla.engine.matrices import Blocks, Bytes, RawTensor
from olla.engine.native.library import Core
from olla.engine.native.packed import Packed, Packing
from olla.formats.ggml_types import GgmlType

SHAPES = [(8, 32), (1, 32), (13, 96), (64, 576), (100, 128)]
HALF_A_STEP = 0.51 / 127  # of inputs rounded to eight bits, a block at a time
CPU = torch.device("cpu")
COUNTS = [1, 3, 4, 7, 70]
SCALES = {
    GgmlType.Q2_K: (80, 82), GgmlType.Q3_K: (108,), GgmlType.Q4_0: (0,), GgmlType.Q4_1: (0, 2),
    GgmlType.Q4_K: (0, 2), GgmlType.Q5_0: (0,), GgmlType.Q5_1: (0, 2), GgmlType.Q5_K: (0, 2),
    GgmlType.Q6_K: (208,), GgmlType.Q8_0: (0,),
}  # fmt: skip
"""Where the halves of each type's blocks are."""
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def four_bit(rows: int, columns: int) -> tuple[Blocks, Tensor]:
    """Blocks, and the weights that they stand for."""
    values = torch.randint(0, 16, (rows, columns), dtype=torch.uint8)
    scales = torch.rand(rows, columns // 32).half().float()
    offsets = -8 * torch.rand(rows, columns // 32).half().float()
    groups = values.view(rows, -1, 32) * scales[..., None] + offsets[..., None]
    return Blocks(values, scales, offsets), groups.view(rows, columns)


def random_blocks(kind: GgmlType, rows: int, columns: int) -> tuple[Bytes, Tensor]:
    """Blocks of random values whose scales are of every size, and the weights they stand for."""
    count = rows * columns // kind.block_elements
    generator = np.random.default_rng(1)
    raw = generator.integers(0, 256, (count, kind.block_bytes), dtype=np.uint8)
    for start in SCALES[kind]:
        scales = generator.uniform(-0.5, 0.5, (count, 1)).astype(np.float16)
        raw[:, start : start + 2] = scales.view(np.uint8)
    weights = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType(int(kind)))
    return raw.ravel(), torch.from_numpy(weights).view(rows, columns)


def check(matrix: Packed, weights: Tensor, tolerance: float) -> None:
    """Rows are the weights; products are theirs, but for a part of each block's largest input."""
    rows, most = matrix.rows(torch.arange(len(weights))), float(weights.abs().max())
    assert torch.allclose(rows, weights, rtol=1e-3, atol=1e-3 * most)
    for count in COUNTS:
        inputs = torch.randn(count, weights.shape[1])
        blocks = functional.pad(inputs, (0, -inputs.shape[1] % 32)).view(count, -1, 32)
        largest = blocks.abs().amax(dim=-1).repeat_interleave(32, dim=-1)[:, : inputs.shape[1]]
        bound = largest @ weights.abs().T
        error = (matrix.multiply(inputs) - inputs @ weights.T).abs()
        assert (error <= tolerance * bound + 1e-6).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_four_bits(core: Core, shape: tuple[int, int]) -> None:
    blocks, weights = four_bit(*shape)

    check(Packing(core).four_bit(blocks), weights, tolerance=HALF_A_STEP)


@pytest.mark.parametrize("shape", SHAPES)
def test_eight_bits(core: Core, shape: tuple[int, int]) -> None:
    scales = torch.rand(shape[0], shape[1] // 32, 1).half().float()
    values = torch.randint(-127, 128, (shape[0], shape[1] // 32, 32))
    values[..., 0] = 127  # so that the scale found is the one that was meant
    weights = (values * scales).view(shape)

    check(Packing(core).eight_bit(weights), weights, tolerance=HALF_A_STEP)


def test_rows_that_are_not_whole_blocks_stay_floats(core: Core) -> None:
    weights = torch.randn(5, 48)

    check(Packing(core).eight_bit(weights), weights, tolerance=1e-5)


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


@pytest.mark.parametrize("kind", [*SCALES, *DTYPES])
def test_a_row_of_a_product_does_not_depend_on_the_others(
    core: Core, kind: GgmlType | torch.dtype
) -> None:
    if isinstance(kind, torch.dtype):
        matrix: Packed | None = Packing(core).dense(torch.randn(64, 512).to(kind))
    else:
        raw, _ = random_blocks(kind, 64, 512)
        matrix = Packing(core).filed(RawTensor(kind, (64, 512), raw, None, lambda: 0), CPU)
    assert matrix is not None
    inputs = torch.randn(70, 512)

    alone = torch.cat([matrix.multiply(row[None]) for row in inputs])

    assert torch.equal(matrix.multiply(inputs), alone)


def test_inputs_of_zero_give_zero(core: Core) -> None:
    blocks, _ = four_bit(8, 32)

    assert not Packing(core).four_bit(blocks).multiply(torch.zeros(2, 32)).any()


@pytest.mark.parametrize("kind", SCALES)
def test_blocks_of_a_file_are_packed_as_they_are(core: Core, kind: GgmlType) -> None:
    """Values bit for bit, scales as halves; and products are theirs."""
    raw, weights = random_blocks(kind, 21, 512)
    order = torch.randperm(21, dtype=torch.int32)

    matrix = Packing(core).filed(RawTensor(kind, (21, 512), raw, order, lambda: 0), CPU)

    assert matrix is not None
    check(matrix, weights[order.long()], tolerance=HALF_A_STEP)


def test_packed_blocks_take_about_the_room_of_the_file(core: Core) -> None:
    """Two bits more at most, for scales of their own."""
    for kind in SCALES:
        raw, _ = random_blocks(kind, 64, 512)
        matrix = Packing(core).filed(RawTensor(kind, (64, 512), raw, None, lambda: 0), CPU)
        assert matrix is not None
        assert (matrix.num_bytes - raw.nbytes) * 8 / (64 * 512) <= 1.5, kind


def test_other_blocks_of_a_file_are_left_to_be_read(core: Core) -> None:
    raw = RawTensor(GgmlType.IQ4_XS, (1, 256), np.zeros(136, np.uint8), None, lambda: 0)

    assert Packing(core).filed(raw, CPU) is None
