"""Whether there is an accelerator, told without torch, which takes seconds to import."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

_DEVICES = ("nvidia[0-9]*", "kfd", "dxg")  # NVIDIA's, AMD's, and Windows' in its Linux


@cache
def may_have_gpu(devices: Path = Path("/dev")) -> bool:
    """False only where there certainly is none."""
    if sys.platform != "linux":
        return True
    return any(True for pattern in _DEVICES for _ in devices.glob(pattern))
