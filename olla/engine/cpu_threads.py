"""How many threads compute: as many as the process has physical cores to itself.

Threads that share a core only get in each other's way here, and those beyond what a container may
use are stopped in the middle of a step while the others wait for them. Reads Linux's files;
elsewhere it is one for each processor.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Set
from pathlib import Path, PurePosixPath

_ROOT = Path("/")
_SIBLINGS = "sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"


def choose_threads(wanted: int) -> int:
    """As many as are `wanted`, no more than the machine has processors; 0 leaves the choice."""
    return min(wanted, os.cpu_count() or 1) if wanted else usable_threads()


def usable_threads(root: Path = _ROOT, processors: Set[int] | None = None) -> int:
    """
    Args:
        root: where `/proc`, `/sys` are. processors: those that the process may run on, by number.
    """
    if processors is None:
        affinity = getattr(os, "sched_getaffinity", None)
        processors = affinity(0) if affinity else set(range(os.cpu_count() or 1))
    cores = {_text(root / _SIBLINGS.format(number)) or str(number) for number in processors}
    return max(1, min([len(cores), *(int(share) for share in _shares(root))]))


def _shares(root: Path) -> Iterator[float]:
    """How many processors' time each control group that the process is in allows it."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        folder = root / "sys/fs/cgroup" / controllers
        # What a container sees may be a part of the tree, so that the path leads nowhere.
        for group in (PurePosixPath(path), *PurePosixPath(path).parents):
            here = folder / str(group).lstrip("/")
            quota, _, period = _text(here / "cpu.max").partition(" ")
            if controllers:
                quota = _text(here / "cpu.cfs_quota_us")
                period = _text(here / "cpu.cfs_period_us")
            if quota.isdigit() and period.isdigit() and int(period):
                yield int(quota) / int(period)


def _text(path: Path) -> str:
    """A file's text; "" if it cannot be read."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""
