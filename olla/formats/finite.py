"""Whether floats in a file are all finite, told from their bits, without numpy or torch.

A float is not finite when all bits of its exponent are set. Many are looked at in one operation
on Python's long integers, which is as fast as reading the file.
"""

from __future__ import annotations

from typing import BinaryIO

_EXPONENTS = {"F32": 0x7F800000, "F16": 0x7C00, "BF16": 0x7F80}
_SIZES = {"F32": 4, "F16": 2, "BF16": 2}
_CHUNK_BYTES = 1 << 20


def are_finite(file: BinaryIO, dtype: str, size_bytes: int) -> bool:
    """Whether the next `size_bytes` of a file, F32, F16 or BF16, hold neither NaN nor infinity."""
    while size_bytes > 0:
        data = file.read(min(size_bytes, _CHUNK_BYTES))
        if not data:
            return True
        size_bytes -= len(data)
        if not _is_finite(data, _EXPONENTS[dtype], _SIZES[dtype]):
            return False
    return True


def _is_finite(data: bytes, exponent: int, size: int) -> bool:
    count = len(data) // size
    exponents = int.from_bytes(exponent.to_bytes(size, "little") * count, "little")
    signs = int.from_bytes((1 << (8 * size - 1)).to_bytes(size, "little") * count, "little")
    # A bit that the exponent lacks, plus the mask, carries into the place of the sign.
    missing = (int.from_bytes(data[: count * size], "little") & exponents) ^ exponents
    return (missing + exponents) & signs == signs
