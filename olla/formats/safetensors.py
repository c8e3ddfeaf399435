"""The header of a safetensors file: names, dtypes, shapes and places of its tensors.

Knows nothing about models. Invariant, as the format demands: tensors lie in the file without
gaps or overlaps, each exactly as long as its shape and dtype say, the last one ends the file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from olla.errors import FormatError

MAX_HEADER_BYTES = 100_000_000
_LENGTH_BYTES = 8
_MAX_DIMENSIONS = 32  # torch's own bound is 64; the product must stay small enough to compute

_DTYPE_BITS = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "F4": 4,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "I64": 64,
    "U64": 64,
    "F64": 64,
    "C64": 64,
}


@dataclass(frozen=True, slots=True)
class SafetensorsTensor:
    """`dtype` in the format's own words ("BF16"); `offset` from the file's start."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class SafetensorsFile:
    path: Path
    tensors: tuple[SafetensorsTensor, ...]
    metadata: Mapping[str, str]


def read_safetensors(path: Path) -> SafetensorsFile:
    """Read the header of `path`; tensors come in the order of their bytes.

    Raises:
        FormatError: the file is broken.
        OSError: it cannot be opened or read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        text = _read_header(file, size)
    header = _parse(text)
    metadata = _metadata(header.pop("__metadata__", {}))
    data_start = _LENGTH_BYTES + len(text)
    tensors = [_tensor(name, entry, data_start) for name, entry in header.items()]
    tensors.sort(key=lambda tensor: (tensor.offset, tensor.size_bytes))
    _check_places(tensors, data_start, size)
    return SafetensorsFile(path=path, tensors=tuple(tensors), metadata=metadata)


def _read_header(file: BinaryIO, size: int) -> bytes:
    if size < _LENGTH_BYTES:
        raise _broken("it is too short")
    length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
    if length > MAX_HEADER_BYTES:
        raise _broken(f"its header of {length} bytes is longer than {MAX_HEADER_BYTES}")
    if length > size - _LENGTH_BYTES:
        raise _broken(f"its header of {length} bytes ends past the end of the file")
    text = file.read(length)
    if len(text) < length:
        raise _broken("it became shorter while it was read")
    return text


def _parse(text: bytes) -> dict[str, object]:
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise _broken("its header is not JSON") from error
    if not isinstance(header, dict):
        raise _broken("its header is not a JSON object")
    return header


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        raise _broken("a name occurs twice in its header")
    return entries


def _metadata(entry: object) -> dict[str, str]:
    if not isinstance(entry, dict) or not all(isinstance(value, str) for value in entry.values()):
        raise _broken("its metadata is not an object of strings")
    return entry


def _tensor(name: str, entry: object, data_start: int) -> SafetensorsTensor:
    if not isinstance(entry, dict):
        raise _broken(f"tensor {name!r} is not described by an object")
    dtype = entry.get("dtype")
    if not isinstance(dtype, str) or dtype not in _DTYPE_BITS:
        raise _broken(f"tensor {name!r} has the unknown dtype {dtype!r}")
    shape = _sizes(name, entry.get("shape"))
    offsets = _sizes(name, entry.get("data_offsets"))
    bits = math.prod(shape) * _DTYPE_BITS[dtype]
    if len(offsets) != 2 or (offsets[1] - offsets[0]) * 8 != bits:
        raise _broken(f"the place of tensor {name!r} does not fit its shape")
    return SafetensorsTensor(name, dtype, shape, data_start + offsets[0], bits // 8)


def _sizes(name: str, entry: object) -> tuple[int, ...]:
    if not isinstance(entry, list):
        raise _broken(f"tensor {name!r} lacks a shape or a place")
    if len(entry) > _MAX_DIMENSIONS:
        raise _broken(f"tensor {name!r} has {len(entry)} dimensions")
    if not all(type(size) is int and 0 <= size < 2**63 for size in entry):
        raise _broken(f"tensor {name!r} has a size that is not a whole number")
    return tuple(entry)


def _check_places(tensors: list[SafetensorsTensor], data_start: int, file_size: int) -> None:
    end = data_start
    for tensor in tensors:
        if tensor.offset != end:
            raise _broken(f"tensor {tensor.name!r} overlaps another or leaves a gap")
        end += tensor.size_bytes
    if end != file_size:
        raise _broken(f"its tensors end at byte {end}, but the file at {file_size}")


def _broken(reason: str) -> FormatError:
    return FormatError(f"invalid safetensors file: {reason}")
