"""MappedFile: a weight file's bytes through a memory map, whose pages are given back when read.

Pages of a map count as the process's memory as long as they are mapped, so without that a load
would take the file's size on top of the weights'. The kernel's own copy of the file stays.
"""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

Bytes: TypeAlias = np.ndarray[Any, np.dtype[np.uint8]]


class MappedFile:
    """`bytes` is the whole file, read-only."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.bytes: Bytes = np.frombuffer(self._map, dtype=np.uint8)

    def drop(self, start: int, size: int) -> None:
        """Give the pages of [start, start + size) back; they come again when they are read."""
        first = start // mmap.PAGESIZE * mmap.PAGESIZE
        if size:
            self._map.madvise(mmap.MADV_DONTNEED, first, start + size - first)
