"""The header of a GGUF file: metadata and the table of tensors.

Reads versions 2 and 3, little-endian, without torch or numpy; never the weights themselves.
Invariant: every count, length and offset is checked against the file's size before it is used,
so a broken file costs no more memory than its own size and ends in FormatError.
Layout: ggml's docs/gguf.md.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from olla.errors import FormatError
from olla.formats.ggml_types import FILE_TYPES, GgmlType

__all__ = ["FILE_TYPES", "GgmlType", "GgufFile", "GgufTensor", "MetadataValue", "read_gguf"]

MetadataScalar = int | float | bool | str
MetadataValue = MetadataScalar | tuple[MetadataScalar, ...]
Span = tuple[int, int]
"""Where bytes of a file begin and end."""

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_DEFAULT_ALIGNMENT = 32
_MAX_DIMENSIONS = 4
_READ_BYTES = 1 << 20

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 10: "Q", 11: "q", 12: "d"}
_BOOL, _STRING, _ARRAY = 7, 8, 9
_MIN_ENTRY_BYTES = 8 + 4 + 1  # key length, type, the smallest value
_MIN_TENSOR_BYTES = 8 + 4 + 4 + 8  # name length, number of dimensions, type, offset

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """`shape` is in torch's order (the slowest dimension first), `offset` from the file's start."""

    name: str
    shape: tuple[int, ...]
    type: GgmlType
    offset: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class GgufFile:
    """`spans`: where each entry of the metadata stands in the file, its key included."""

    path: Path
    metadata: Mapping[str, MetadataValue]
    tensors: tuple[GgufTensor, ...]
    spans: Mapping[str, Span]


def read_gguf(path: Path) -> GgufFile:
    """Read the header of `path`.

    Text in values is decoded leniently, as vocabularies may hold halves of characters.

    Raises:
        FormatError: the file is broken, or of a kind that is not supported.
        OSError: it cannot be opened or read.
    """
    with path.open("rb") as file:
        cursor = _Cursor(file, path.stat().st_size)
        num_tensors, num_entries = _read_counts(cursor)
        metadata, spans = _read_metadata(cursor, num_entries)
        alignment = alignment_of(metadata)
        entries = [_read_tensor_entry(cursor) for _ in range(num_tensors)]
    data_start = -(-cursor.position // alignment) * alignment
    tensors = tuple(_place(entry, data_start, alignment, cursor.size) for entry in entries)
    _check_names([tensor.name for tensor in tensors])
    _check_overlaps(tensors)
    return GgufFile(path, metadata, tensors, spans)


def alignment_of(metadata: Mapping[str, MetadataValue]) -> int:
    """What the offset of every tensor is a multiple of.

    Raises:
        FormatError: it is not a power of two.
    """
    alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
        raise FormatError(
            f"invalid GGUF file: its alignment is {alignment!r}, which is not a power of two"
        )
    return alignment


class _Cursor:
    """Takes values off the front of a file, never past its end."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.size = size
        self.position = 0
        self._file = file
        self._data = bytearray()

    @property
    def remaining(self) -> int:
        return self.size - self.position

    def advance(self, length: int) -> tuple[bytearray, int]:
        """Step over `length` bytes; they start at the returned index of the returned buffer."""
        start = self.position
        end = start + length
        if end > len(self._data):
            self._fill(end)
        self.position = end
        return self._data, start

    def u32(self) -> int:
        value: int = _U32.unpack_from(*self.advance(4))[0]
        return value

    def u64(self) -> int:
        value: int = _U64.unpack_from(*self.advance(8))[0]
        return value

    def strings(self, count: int) -> tuple[str, ...]:
        """`count` strings in a row, in one loop: vocabularies have hundreds of thousands."""
        values = []
        data, position, unpack = self._data, self.position, _U64.unpack_from
        for _ in range(count):
            start = position + 8
            if start > len(data):
                self._fill(start)
            position = start + unpack(data, start - 8)[0]
            if position > len(data):
                self._fill(position)
            values.append(data[start:position].decode("utf-8", "replace"))
        self.position = position
        return tuple(values)

    def identifier(self) -> str:
        length = self.u64()
        data, start = self.advance(length)
        try:
            return data[start : start + length].decode("utf-8")
        except UnicodeDecodeError as error:
            raise FormatError("invalid GGUF file: a name is not UTF-8 text") from error

    def count(self, min_bytes: int, what: str) -> int:
        """A number of items that take at least `min_bytes` each."""
        number = self.u64()
        if number * min_bytes > self.remaining:
            raise FormatError(
                f"invalid GGUF file: {number} {what} do not fit in the {self.size} bytes it has"
            )
        return number

    def _fill(self, end: int) -> None:
        if end > self.size:
            raise FormatError(
                f"invalid GGUF file: truncated, it ends at byte {self.size} inside its header"
            )
        self._data += self._file.read(max(end - len(self._data), _READ_BYTES))
        if end > len(self._data):
            raise FormatError("invalid GGUF file: it became shorter while it was read")


def _read_counts(cursor: _Cursor) -> tuple[int, int]:
    if cursor.size < len(MAGIC) or cursor.advance(len(MAGIC))[0][: len(MAGIC)] != MAGIC:
        raise FormatError("not a GGUF file: it does not begin with GGUF")
    version = cursor.u32()
    if version & 0xFFFF == 0 and version:
        raise FormatError("big-endian GGUF files are not supported")
    if version not in _VERSIONS:
        raise FormatError(f"GGUF version {version} is not supported, only 2 and 3")
    num_tensors = cursor.count(_MIN_TENSOR_BYTES, "tensors")
    return num_tensors, cursor.count(_MIN_ENTRY_BYTES, "metadata entries")


def _read_metadata(
    cursor: _Cursor, num_entries: int
) -> tuple[dict[str, MetadataValue], dict[str, Span]]:
    metadata: dict[str, MetadataValue] = {}
    spans: dict[str, Span] = {}
    for _ in range(num_entries):
        start = cursor.position
        key = cursor.identifier()
        if key in metadata:
            raise FormatError(f"invalid GGUF file: duplicate metadata key {key!r}")
        metadata[key] = _read_value(cursor, cursor.u32())
        spans[key] = (start, cursor.position)
    return metadata, spans


def _read_value(cursor: _Cursor, type_code: int) -> MetadataValue:
    if type_code == _STRING:
        return cursor.strings(1)[0]
    if type_code == _ARRAY:
        return _read_array(cursor)
    return _read_scalars(cursor, type_code, 1)[0]


def _read_array(cursor: _Cursor) -> tuple[MetadataScalar, ...]:
    type_code = cursor.u32()
    if type_code == _ARRAY:
        raise FormatError("GGUF arrays of arrays are not supported")
    if type_code == _STRING:
        return cursor.strings(cursor.count(8, "strings"))
    width = struct.calcsize(_scalar_format(type_code))
    return _read_scalars(cursor, type_code, cursor.count(width, "array elements"))


def _read_scalars(cursor: _Cursor, type_code: int, count: int) -> tuple[MetadataScalar, ...]:
    layout = f"<{count}{_scalar_format(type_code)}"
    return struct.unpack_from(layout, *cursor.advance(struct.calcsize(layout)))


def _scalar_format(type_code: int) -> str:
    if type_code == _BOOL:
        return "?"
    try:
        return _SCALARS[type_code]
    except KeyError as error:
        raise FormatError(f"invalid GGUF file: unknown metadata type {type_code}") from error


def _read_tensor_entry(cursor: _Cursor) -> GgufTensor:
    """A row of the tensor table, its offset still relative to the start of the data."""
    name = cursor.identifier()
    num_dimensions = cursor.u32()
    if num_dimensions > _MAX_DIMENSIONS:
        raise FormatError(f"invalid GGUF file: tensor {name!r} has {num_dimensions} dimensions")
    sizes = [cursor.u64() for _ in range(num_dimensions)]
    kind = _ggml_type(name, cursor.u32())
    return GgufTensor(
        name=name,
        shape=tuple(reversed(sizes)),
        type=kind,
        offset=cursor.u64(),
        size_bytes=_tensor_bytes(name, sizes, kind),
    )


def _ggml_type(name: str, number: int) -> GgmlType:
    try:
        return GgmlType(number)
    except ValueError as error:
        raise FormatError(f"tensor {name!r} has the unsupported type {number}") from error


def _tensor_bytes(name: str, sizes: list[int], kind: GgmlType) -> int:
    elements = math.prod(sizes)
    if not 0 < elements < 2**63:
        raise FormatError(f"invalid GGUF file: tensor {name!r} has {elements} elements")
    row = sizes[0] if sizes else 1
    if row % kind.block_elements:
        raise FormatError(
            f"invalid GGUF file: rows of {row} in tensor {name!r} "
            f"are not whole {kind.name} blocks of {kind.block_elements}"
        )
    return elements // kind.block_elements * kind.block_bytes


def _place(entry: GgufTensor, data_start: int, alignment: int, file_size: int) -> GgufTensor:
    offset = data_start + entry.offset
    if entry.offset % alignment:
        raise FormatError(f"invalid GGUF file: tensor {entry.name!r} is not aligned")
    if offset + entry.size_bytes > file_size:
        raise FormatError(
            f"invalid GGUF file: tensor {entry.name!r} ends at byte "
            f"{offset + entry.size_bytes}, past the end of the file at {file_size}"
        )
    return GgufTensor(entry.name, entry.shape, entry.type, offset, entry.size_bytes)


def _check_names(names: list[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise FormatError(f"invalid GGUF file: duplicate tensor {name!r}")
        seen.add(name)


def _check_overlaps(tensors: tuple[GgufTensor, ...]) -> None:
    """Shared bytes would let a small file stand for any amount of memory."""
    end = 0
    for tensor in sorted(tensors, key=lambda tensor: tensor.offset):
        if tensor.offset < end:
            raise FormatError(f"invalid GGUF file: tensor {tensor.name!r} overlaps another")
        end = tensor.offset + tensor.size_bytes
