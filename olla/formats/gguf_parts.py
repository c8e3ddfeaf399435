"""Split GGUF files: which files are the parts of one, and the one file that they make.

Parts are as llama.cpp's gguf-split leaves them (tools/gguf-split): `x-00001-of-00003.gguf` with
the metadata, and others that share the tensors with it. Reads headers, and hands the bytes on
piece by piece. Invariant: the whole has every tensor once, and as many as the parts promise.
"""

from __future__ import annotations

import re
import struct
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Self

from olla.errors import FormatError
from olla.formats.gguf import MAGIC, GgufFile, GgufTensor, alignment_of

_NAME = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf", re.ASCII)
_VERSION = 3
_OWN_KEYS = "split."
_MAX_ALIGNMENT = 2**16  # what lies between tensors is written, so it must not be any number
_CHUNK_BYTES = 1 << 22


@dataclass(frozen=True, slots=True)
class PartName:
    """What the name of a part says. `number` counts from 1."""

    stem: str
    number: int
    count: int

    @classmethod
    def parse(cls, name: str) -> Self | None:
        """None for the name of a whole file."""
        match = _NAME.fullmatch(name)
        if match is None or int(match[3]) < 2:
            return None
        return cls(match[1], int(match[2]), int(match[3]))

    def sibling(self, number: int) -> str:
        """The name of another part of the same file."""
        return f"{self.stem}-{number:05d}-of-{self.count:05d}.gguf"

    @property
    def whole(self) -> str:
        return f"{self.stem}.gguf"


def group_parts(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The name of each whole file -> the names of its parts, in their order.

    Raises:
        FormatError: a part is missing or numbered past the last one, or the whole is there too.
    """
    names = dict.fromkeys(names)
    found: dict[tuple[str, int], set[int]] = defaultdict(set)
    for part in filter(None, map(PartName.parse, names)):
        found[part.stem, part.count].add(part.number)
    groups: dict[str, tuple[str, ...]] = {}
    for (stem, count), numbers in found.items():
        one = PartName(stem, min(numbers), count)
        _check_numbers(one, numbers)
        if one.whole in names:
            raise FormatError(f"{one.whole} is there as a whole and in parts: leave one of them")
        if one.whole in groups:
            raise FormatError(f"{one.whole} is split twice, into different numbers of parts")
        groups[one.whole] = tuple(one.sibling(number) for number in range(1, count + 1))
    return groups


def _check_numbers(one: PartName, numbers: set[int]) -> None:
    for number in sorted(numbers):
        if not 1 <= number <= one.count:
            raise FormatError(f"{one.sibling(number)} is numbered past the last of {one.count}")
    missing = next((n for n in range(1, one.count + 1) if n not in numbers), None)
    if missing is not None:
        raise FormatError(
            f"{one.sibling(one.number)} is a part of a split file: {one.sibling(missing)} is "
            "missing beside it"
        )


@dataclass(frozen=True, slots=True)
class Piece:
    """A tensor's bytes in one of the parts, and the zeros that follow them."""

    path: Path
    offset: int
    size_bytes: int
    num_zeros: int


@dataclass(frozen=True, slots=True)
class WholeGguf:
    """The file that parts make: a header and tensors behind it."""

    header: bytes
    pieces: tuple[Piece, ...]

    @property
    def size_bytes(self) -> int:
        return len(self.header) + sum(p.size_bytes + p.num_zeros for p in self.pieces)

    def chunks(self) -> Iterator[bytes]:
        """The bytes from first to last, some megabytes at a time.

        Raises:
            FormatError: a part became shorter.
            OSError: it cannot be read.
        """
        yield self.header
        for piece in self.pieces:
            with piece.path.open("rb") as file:
                file.seek(piece.offset)
                left = piece.size_bytes
                while left:
                    chunk = file.read(min(left, _CHUNK_BYTES))
                    if not chunk:
                        raise FormatError("a part became shorter while it was read")
                    left -= len(chunk)
                    yield chunk
            yield bytes(piece.num_zeros)


def join_parts(parts: Mapping[str, GgufFile]) -> WholeGguf:
    """
    Args:
        parts: all of one file, in their order, by their names.

    Raises:
        FormatError: they are not parts of one file; the text names the one that is wrong.
        OSError: the first cannot be read.
    """
    for name, file in parts.items():
        _check_place(name, file)
    _check_same_model(parts)
    _check_tensors(parts)
    first = next(iter(parts.values()))
    alignment = alignment_of(first.metadata)
    if alignment > _MAX_ALIGNMENT:
        raise FormatError(f"an alignment of {alignment} is more than the {_MAX_ALIGNMENT} allowed")
    pieces = tuple(
        Piece(file.path, tensor.offset, tensor.size_bytes, -tensor.size_bytes % alignment)
        for file in parts.values()
        for tensor in file.tensors
    )
    return WholeGguf(_header(first, _tensors(parts), pieces, alignment), pieces)


def is_part(file: GgufFile) -> bool:
    count = file.metadata.get("split.count")
    return type(count) is int and count > 1


def _tensors(parts: Mapping[str, GgufFile]) -> Iterator[GgufTensor]:
    return (tensor for file in parts.values() for tensor in file.tensors)


def _check_place(name: str, file: GgufFile) -> None:
    part = PartName.parse(name)
    assert part is not None
    number, count = file.metadata.get("split.no"), file.metadata.get("split.count")
    if type(number) is not int or type(count) is not int:
        raise FormatError(f"{name} does not say which part of a split file it is")
    if (number + 1, count) != (part.number, part.count):
        raise FormatError(f"{name} says that it is part {number + 1} of {count}")


def _check_same_model(parts: Mapping[str, GgufFile]) -> None:
    """Later parts need not say what the first does, but must not say anything else."""
    first_name, first = next(iter(parts.items()))
    for name, file in parts.items():
        for key, value in file.metadata.items():
            is_own = key.startswith(_OWN_KEYS) and key != "split.tensors.count"
            if not is_own and first.metadata.get(key, value) != value:
                raise FormatError(f"{first_name} and {name} are of different models: see {key}")


def _check_tensors(parts: Mapping[str, GgufFile]) -> None:
    homes: dict[str, str] = {}
    for name, file in parts.items():
        for tensor in file.tensors:
            if tensor.name in homes:
                raise FormatError(f"{tensor.name} is both in {homes[tensor.name]} and in {name}")
            homes[tensor.name] = name
    first_name, first = next(iter(parts.items()))
    promised = first.metadata.get("split.tensors.count", len(homes))
    if promised != len(homes):
        raise FormatError(f"{first_name} promises {promised} tensors, its parts have {len(homes)}")


def _header(
    first: GgufFile, tensors: Iterable[GgufTensor], pieces: tuple[Piece, ...], alignment: int
) -> bytes:
    spans = [span for key, span in first.spans.items() if not key.startswith(_OWN_KEYS)]
    header = bytearray(MAGIC + struct.pack("<IQQ", _VERSION, len(pieces), len(spans)))
    with first.path.open("rb") as file:
        for start, end in spans:
            file.seek(start)
            header += file.read(end - start)
    offsets = accumulate((piece.size_bytes + piece.num_zeros for piece in pieces), initial=0)
    for tensor, offset in zip(tensors, offsets, strict=False):
        name, sizes = tensor.name.encode(), tensor.shape[::-1]
        header += struct.pack("<Q", len(name)) + name
        header += struct.pack(f"<I{len(sizes)}Q", len(sizes), *sizes)
        header += struct.pack("<IQ", tensor.type, offset)
    return bytes(header) + bytes(-len(header) % alignment)
