"""Rows of floats -> the blocks of a GGUF type.

The simple types are the `gguf` package's. The K types, which it cannot make, are made here: a
super-block of 256 values has the scales of its groups in few bits. Each group's scale (and least
value) is the best of some candidates by weighted squared error, then rounded, and the values
are rounded anew to what the rounded scale stands for. Layouts are ggml's (ggml-common.h).
"""

from __future__ import annotations

from collections.abc import Callable

import gguf
import numpy as np
import torch
from torch import Tensor

from olla.engine.matrices import Bytes
from olla.engine.native.library import Core
from olla.errors import FormatError
from olla.formats.ggml_types import GgmlType

SUPER = 256
_BLOCKS_AT_ONCE = 512  # what they take stays in the processor's caches
_SIX_BITS = 63
_FLAT = 1e-5
_TRIES_AFFINE, _TRIES_SYMMETRIC = 9, 4


def quantize(rows: Tensor, kind: GgmlType, core: Core | None = None) -> Bytes:
    """A matrix (num_rows, columns) float32 -> the file's bytes, (num_rows, row bytes).

    Args:
        core: searches the scales of K types, if there is one; torch does it in ten times the time.

    Raises:
        FormatError: columns are not whole blocks, or nothing here makes that type.
    """
    if rows.shape[1] % kind.block_elements:
        raise FormatError(f"rows of {rows.shape[1]} are not whole {kind.name} blocks")
    make = _MAKERS.get(kind)
    if make is None:
        return _by_package(rows, kind)
    blocks = rows.reshape(-1, SUPER)
    parts = [make(part, core) for part in torch.split(blocks, _BLOCKS_AT_ONCE)]
    return torch.cat(parts).reshape(rows.shape[0], -1).numpy()


def _by_package(rows: Tensor, kind: GgmlType) -> Bytes:
    try:
        made = gguf.quants.quantize(rows.numpy(), gguf.GGMLQuantizationType(int(kind)))
    except NotImplementedError as error:
        raise FormatError(f"olla cannot make {kind.name} weights") from error
    packed: Bytes = np.ascontiguousarray(made).view(np.uint8)
    return packed


def _q4_k(blocks: Tensor, core: Core | None) -> Tensor:
    head, values = _affine(blocks, 15, core)
    return torch.cat((head, _nibbles(values)), dim=1)


def _q5_k(blocks: Tensor, core: Core | None) -> Tensor:
    """The fifth bits stand apart: bit `g` of byte `i` is that of value `i` of group `g`."""
    head, values = _affine(blocks, 31, core)
    groups = values.view(-1, 8, 32)
    places = torch.arange(8, dtype=torch.uint8).view(1, 8, 1)
    high = ((groups >> 4) << places).sum(dim=1, dtype=torch.uint8)
    return torch.cat((head, high, _nibbles(values & 15)), dim=1)


def _q6_k(blocks: Tensor, core: Core | None) -> Tensor:
    """16 groups of 16 with a signed 8-bit scale each; values are -32..31, stored from 0 on."""
    groups = blocks.view(-1, 16, 16)
    scales = _symmetric_scales(groups, 32, core)
    largest = scales.gather(1, scales.abs().argmax(dim=1, keepdim=True))
    unit = (largest / -128).half()
    factors = _divided(scales, unit.float()).round().clamp(-128, 127)
    steps = (factors * unit.float())[..., None]
    values = (_divided(groups, steps).round().clamp(-32, 31) + 32).to(torch.uint8)
    low, high = _six_bits(values.view(-1, 2, 4, 32))
    return torch.cat((low, high, _bytes(factors.to(torch.int8)), _bytes(unit)), dim=1)


def _six_bits(values: Tensor) -> tuple[Tensor, Tensor]:
    """(blocks, 2, 4, 32): of each half, four runs of 32. Nibbles of runs 0|2 and 1|3; high bits."""
    low = torch.stack(
        (
            (values[:, :, 0] & 15) | ((values[:, :, 2] & 15) << 4),
            (values[:, :, 1] & 15) | ((values[:, :, 3] & 15) << 4),
        ),
        dim=2,
    )
    shifts = torch.tensor([0, 2, 4, 6], dtype=torch.uint8).view(1, 1, 4, 1)
    high = ((values >> 4) << shifts).sum(dim=2, dtype=torch.uint8)
    return low.reshape(-1, 128), high.reshape(-1, 64)


def _affine(blocks: Tensor, most: int, core: Core | None) -> tuple[Tensor, Tensor]:
    """8 groups of 32, each `value * scale - least` with 6-bit scales and leasts.

    Returns:
        The block's 16 bytes before its values, and the values (num_blocks, 256) uint8.
    """
    groups = blocks.view(-1, 8, 32)
    scales, leasts = _affine_scales(groups, most, core)
    unit = (scales.amax(dim=1, keepdim=True) / _SIX_BITS).half()
    least_unit = (leasts.amax(dim=1, keepdim=True) / _SIX_BITS).half()
    scale_codes = _divided(scales, unit.float()).round().clamp(0, _SIX_BITS)
    least_codes = _divided(leasts, least_unit.float()).round().clamp(0, _SIX_BITS)
    steps = (scale_codes * unit.float())[..., None]
    offsets = (least_codes * least_unit.float())[..., None]
    values = _divided(groups + offsets, steps).round().clamp(0, most).to(torch.uint8)
    codes = _packed_codes(scale_codes.to(torch.uint8), least_codes.to(torch.uint8))
    head = torch.cat((_bytes(unit), _bytes(least_unit), codes), dim=1)
    return head, values.view(-1, SUPER)


def _affine_scales(groups: Tensor, most: int, core: Core | None) -> tuple[Tensor, Tensor]:
    """The scale and the least value, taken off and never negative, of each group."""
    if core is not None:
        scales, leasts = torch.empty(groups.shape[:2]), torch.empty(groups.shape[:2])
        core.affine_scales(
            groups.data_ptr(), scales.numel(), most, scales.data_ptr(), leasts.data_ptr()
        )
        return scales, leasts
    weights = groups.square().mean(dim=-1, keepdim=True).sqrt() + groups.abs()
    weighted = weights * groups
    total, by_value = weights.sum(dim=-1), weighted.sum(dim=-1)
    low = groups.amin(dim=-1, keepdim=True).clamp(max=0)
    span = groups.amax(dim=-1, keepdim=True) - low
    shifted = _divided(groups - low, span)
    best_scale, best_low = span[..., 0] / most, low[..., 0]
    best = torch.full_like(best_scale, torch.inf)
    for attempt in range(_TRIES_AFFINE):
        codes = (shifted * (most - 1 + 2 * attempt / _TRIES_AFFINE)).round_().clamp_(0, most)
        weighted_codes = weights * codes
        by_code, by_square = weighted_codes.sum(dim=-1), (weighted_codes * codes).sum(dim=-1)
        by_both = (weighted * codes).sum(dim=-1)
        scale, offset = _fitted(total, by_value, by_code, by_square, by_both)
        error = (scale * by_square + 2 * (offset * by_code - by_both)) * scale
        error += (offset * total - 2 * by_value) * offset
        better = error < best
        best = torch.where(better, error, best)
        best_scale = torch.where(better, scale, best_scale)
        best_low = torch.where(better, offset, best_low)
    return best_scale, -best_low


def _fitted(
    total: Tensor, by_value: Tensor, by_code: Tensor, by_square: Tensor, by_both: Tensor
) -> tuple[Tensor, Tensor]:
    """The line that fits best, from weighted sums, with an offset of at most 0."""
    determinant = total * by_square - by_code.square()
    is_flat = determinant <= _FLAT * total * by_square  # all codes are alike
    offset = _divided(by_square * by_value - by_code * by_both, determinant)
    offset = torch.where(is_flat, 0.0, offset)
    offset = torch.where(by_square == 0, _divided(by_value, total), offset)
    through_zero = _divided(by_both, by_square)
    scale = _divided(total * by_both - by_value * by_code, determinant)
    scale = torch.where(is_flat | (offset > 0), through_zero, scale).clamp(min=0)
    return scale, offset.clamp(max=0)


def _symmetric_scales(groups: Tensor, half: int, core: Core | None) -> Tensor:
    """The scale of each group, for codes from -half to half - 1."""
    if core is not None:
        scales = torch.empty(groups.shape[:2])
        core.symmetric_scales(groups.data_ptr(), scales.numel(), half, scales.data_ptr())
        return scales
    weights, weighted = groups.square(), groups.square() * groups
    extreme = groups.gather(-1, groups.abs().argmax(dim=-1, keepdim=True))
    shares = _divided(groups, extreme)
    best = torch.full_like(extreme, -1.0)
    best_scale = torch.zeros_like(extreme)
    for attempt in range(-_TRIES_SYMMETRIC, _TRIES_SYMMETRIC + 1):
        codes = (shares * -(half + 0.2 * attempt)).round_().clamp_(-half, half - 1)
        by_both = (weighted * codes).sum(dim=-1, keepdim=True)
        by_square = (weights * codes.square()).sum(dim=-1, keepdim=True)
        gain = _divided(by_both.square(), by_square)
        better = gain > best
        best = torch.where(better, gain, best)
        best_scale = torch.where(better, _divided(by_both, by_square), best_scale)
    return best_scale[..., 0]


def _packed_codes(scales: Tensor, leasts: Tensor) -> Tensor:
    """8 scales and 8 leasts of 6 bits in 12 bytes: 0-3 whole, the bits of 4-7 spread over all."""
    low_scales, high_scales = scales[:, :4], scales[:, 4:]
    low_leasts, high_leasts = leasts[:, :4], leasts[:, 4:]
    return torch.cat(
        (
            low_scales | ((high_scales >> 4) << 6),
            low_leasts | ((high_leasts >> 4) << 6),
            (high_scales & 15) | ((high_leasts & 15) << 4),
        ),
        dim=1,
    )


def _nibbles(values: Tensor) -> Tensor:
    """Of each 64 values, the first 32 in the low halves of 32 bytes, the others in the high."""
    pairs = values.view(-1, 4, 2, 32)
    return (pairs[:, :, 0] | (pairs[:, :, 1] << 4)).reshape(-1, 128)


def _bytes(values: Tensor) -> Tensor:
    return values.contiguous().view(torch.uint8)


def _divided(values: Tensor, by: Tensor) -> Tensor:
    """0 where the divisor is."""
    return (values / by).nan_to_num_(0.0, 0.0, 0.0)


_MAKERS: dict[GgmlType, Callable[[Tensor, Core | None], Tensor]] = {
    GgmlType.Q4_K: _q4_k,
    GgmlType.Q5_K: _q5_k,
    GgmlType.Q6_K: _q6_k,
}
