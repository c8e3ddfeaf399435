"""Four bits: groups of 32 values with a scale and an offset each, from GGUF's blocks or floats.

GGUF's 4-bit blocks lose nothing. Their layouts are ggml's (ggml-quants.c,
`dequantize_row_q4_0`, `_q4_1` and `_q4_K`).
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from olla.engine.matrices import GROUP, Blocks
from olla.formats.ggml_types import GgmlType

Bytes: TypeAlias = np.ndarray[Any, np.dtype[np.uint8]]
Floats: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]

_SUPER = 256
_ROWS_AT_ONCE = 1024


def four_bit_blocks(raw: Bytes, kind: GgmlType, shape: tuple[int, ...]) -> Blocks:
    """A matrix (rows, columns) of one of FOUR_BIT_TYPES, as it stands in the file."""
    values, scales, offsets = _READERS[kind](raw)
    groups = (shape[0], -1)
    return Blocks(
        torch.from_numpy(values.reshape(shape)),
        torch.from_numpy(scales.reshape(groups)),
        torch.from_numpy(offsets.reshape(groups)),
    )


def quantize(weights: Tensor) -> Blocks:
    """A matrix (rows, columns) of floats, rounded to four bits between each group's extremes."""
    parts = [_quantized(rows) for rows in torch.split(weights, _ROWS_AT_ONCE)]
    return Blocks(*(torch.cat(part) for part in zip(*parts, strict=True)))


def _quantized(weights: Tensor) -> Blocks:
    groups = weights.float().reshape(weights.shape[0], -1, GROUP)
    least, most = groups.aminmax(dim=-1)
    # Narrowed first, as they are kept, so that values are rounded to what they will stand for.
    offsets = least.bfloat16().float()
    scales = ((most - offsets) / 15).clamp(min=1e-12).bfloat16().float()
    values = ((groups - offsets[..., None]) / scales[..., None]).round().clamp(0, 15)
    return Blocks(values.to(torch.uint8).reshape(weights.shape), scales, offsets)


def _q4_0(raw: Bytes) -> tuple[Bytes, Floats, Floats]:
    blocks = raw.reshape(-1, 18)
    scales = _halves(blocks[:, :2])
    return _nibbles(blocks[:, 2:]), scales, scales * -8


def _q4_1(raw: Bytes) -> tuple[Bytes, Floats, Floats]:
    blocks = raw.reshape(-1, 20)
    return _nibbles(blocks[:, 4:]), _halves(blocks[:, :2]), _halves(blocks[:, 2:4])


def _q4_k(raw: Bytes) -> tuple[Bytes, Floats, Floats]:
    """256 values: a scale and a least value in half precision, eight 6-bit pairs, the nibbles."""
    blocks = raw.reshape(-1, 144)
    scale, least = _halves(blocks[:, :2]), _halves(blocks[:, 2:4])
    packed = blocks[:, 4:16].reshape(-1, 3, 4)
    low, middle, high = packed[:, 0], packed[:, 1], packed[:, 2]
    scales = np.concatenate((low & 63, (high & 15) | ((low >> 6) << 4)), axis=1)
    leasts = np.concatenate((middle & 63, (high >> 4) | ((middle >> 6) << 4)), axis=1)
    values = _nibbles(blocks[:, 16:].reshape(-1, GROUP))
    return values.reshape(-1, _SUPER), scale * scales, -(least * leasts)


def _nibbles(packed: Bytes) -> Bytes:
    """Low halves of all bytes of a block first, then the high ones."""
    return np.concatenate((packed & 15, packed >> 4), axis=1)


def _halves(raw: Bytes) -> Floats:
    """(n, 2) bytes -> (n, 1) floats."""
    return np.ascontiguousarray(raw).view(np.float16).astype(np.float32)


_READERS = {GgmlType.Q4_0: _q4_0, GgmlType.Q4_1: _q4_1, GgmlType.Q4_K: _q4_k}
FOUR_BIT_TYPES = frozenset(_READERS)
