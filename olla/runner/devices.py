"""Accelerators and free memory, told without torch, which takes seconds to import."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path

_DEVICES = ("nvidia[0-9]*", "kfd", "dxg")  # NVIDIA's, AMD's, and Windows' in its Linux
_MEMINFO = Path("/proc/meminfo")
_ASK_NVIDIA = ("nvidia-smi", "--query-gpu=memory.free", "--format=csv,noheader,nounits")
_ASK_TIMEOUT_S = 10.0


@cache
def may_have_gpu(devices: Path = Path("/dev")) -> bool:
    """False only where there certainly is none."""
    if sys.platform != "linux":
        return True
    return any(True for pattern in _DEVICES for _ in devices.glob(pattern))


def num_gpus(devices: Path = Path("/dev")) -> int:
    """How many of NVIDIA's GPUs there are; others cannot be counted and are none."""
    return sum(1 for _ in devices.glob("nvidia[0-9]*"))


def free_memory(device: str) -> int | None:
    """Bytes that a model could have now where models run; None if nothing tells. Blocks.

    On GPUs it is the sum of all: a model that does not fit on one is spread over them.
    """
    if device != "cpu" and may_have_gpu():
        return _free_on_gpus()
    return available_memory(_MEMINFO)


def available_memory(meminfo: Path) -> int | None:
    """What Linux says could be had without swapping."""
    try:
        lines = meminfo.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    fields = dict(line.split(":", 1) for line in lines)
    return int(fields["MemAvailable"].split()[0]) * 1024


def _free_on_gpus() -> int | None:
    try:
        done = subprocess.run(
            _ASK_NVIDIA, capture_output=True, text=True, timeout=_ASK_TIMEOUT_S, check=True
        )
        return sum(int(line) for line in done.stdout.splitlines()) * 2**20
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
