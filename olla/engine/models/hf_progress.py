"""How far transformers is with a load, told as it goes, and the pages that it has read given back.

transformers maps the files and shows a bar of its own for the parameters; the bar's hook is where
we look. Pages of a map count as the process's memory as long as they are mapped.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers.utils import logging

OnProgress = Callable[[int, int], None]

_BAR = "Loading weights"
_DROP_EVERY_BYTES = 2**26


@contextmanager
def reported(files: Mapping[str, Path], on_progress: OnProgress) -> Iterator[None]:
    """Report the loading of `files` that goes on inside the block."""
    weights = [path.resolve() for name, path in files.items() if name.endswith(".safetensors")]
    total_bytes = sum(path.stat().st_size for path in weights)

    def watch(items: Iterable[Any], count: int) -> Iterator[Any]:
        dropped = 0
        for index, item in enumerate(items):
            yield item
            completed = total_bytes * (index + 1) // count
            on_progress(completed, total_bytes)
            if completed - dropped > _DROP_EVERY_BYTES:
                dropped = completed
                drop_pages(weights)

    def hook(factory: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args and kwargs.get("desc") == _BAR:
            return watch(args[0], max(len(args[0]), 1))
        return factory(*args, **kwargs)

    before = logging.set_tqdm_hook(hook)
    try:
        yield
    finally:
        logging.set_tqdm_hook(before)
        drop_pages(weights)


def drop_pages(paths: Iterable[Path]) -> None:
    """Give back this process's mapped pages of the files; they come again when they are read."""
    smaps = Path("/proc/self/smaps")
    if sys.platform != "linux" or not smaps.exists():
        return
    libc = ctypes.CDLL(None)
    for start, end in _clean_maps(smaps.read_text(encoding="utf-8"), {str(path) for path in paths}):
        libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_DONTNEED)


def _clean_maps(smaps: str, names: set[str]) -> Iterator[tuple[int, int]]:
    """Where the files are mapped, without maps that were written to: that would be lost."""
    span: tuple[int, int] | None = None
    for line in smaps.splitlines():
        field, _, rest = line.partition(" ")
        if not field.endswith(":"):
            name = rest.split(maxsplit=4)[-1]
            start, _, end = field.partition("-")
            span = (int(start, 16), int(end, 16)) if name in names else None
        elif field == "Anonymous:" and span and rest.split() == ["0", "kB"]:
            yield span
