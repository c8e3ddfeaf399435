"""One thread for each physical core that affinity and control groups leave to the process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from olla.engine.cpu_threads import choose_threads, usable_threads

NUM_PROCESSORS = os.cpu_count() or 1
FOUR = frozenset(range(4))


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")


def siblings(*pairs: str) -> dict[str, str]:
    return {
        f"sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list": pair
        for number, pair in enumerate(pairs)
    }


@pytest.mark.parametrize(
    ("files", "processors", "expected"),
    [
        ({}, FOUR, 4),
        (siblings("0-1", "0-1", "2-3", "2-3"), FOUR, 2),
        (siblings("0,2", "1,3", "0,2", "1,3"), frozenset({1, 3}), 1),
        ({"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/cpu.max": "250000 100000"}, FOUR, 2),
        ({"proc/self/cgroup": "0::/a", "sys/fs/cgroup/a/cpu.max": "50000 100000"}, FOUR, 1),
        ({"proc/self/cgroup": "0::/a", "sys/fs/cgroup/a/cpu.max": "max 100000"}, FOUR, 4),
        # A container sees its own group as the root.
        ({"proc/self/cgroup": "0::/../x", "sys/fs/cgroup/cpu.max": "300000 100000"}, FOUR, 3),
        ({"proc/self/cgroup": "4:memory:/\n2:cpu,cpuacct:/docker/1",
          "sys/fs/cgroup/cpu,cpuacct/docker/1/cpu.cfs_quota_us": "200000",
          "sys/fs/cgroup/cpu,cpuacct/docker/1/cpu.cfs_period_us": "100000"}, FOUR, 2),
        ({"proc/self/cgroup": "2:cpu:/", "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
          "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, FOUR, 4),
    ],
)  # fmt: skip
def test_threads_are_as_many_as_cores(
    tmp_path: Path, files: dict[str, str], processors: frozenset[int], expected: int
) -> None:
    write(tmp_path, files)

    assert usable_threads(tmp_path, processors) == expected


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [(1, 1), (10**9, NUM_PROCESSORS), (0, usable_threads())],
)
def test_no_more_threads_than_processors_can_be_asked_for(wanted: int, expected: int) -> None:
    assert choose_threads(wanted) == expected
