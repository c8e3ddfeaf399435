"""What the engine finds on this machine, as a line of JSON: `python -m olla.engine.survey`.

`olla doctor` runs it in a process of its own, since no command imports torch.
"""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from typing import Any

import torch

from olla.engine.cpu_threads import usable_threads
from olla.engine.memory import available_bytes
from olla.engine.native.library import find_library


def survey() -> dict[str, Any]:
    """`core`: the compiled core's name, "" for none. `core_error`: why one does not load."""
    broken: list[str] = []
    library = find_library(on_broken=broken.append)
    return {
        "torch": torch.__version__,
        "platform": _platform(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "threads": usable_threads(),
        "gpus": [_gpu(index) for index in range(torch.cuda.device_count())],
        "core": library.stem if library else "",
        "core_error": "; ".join(broken),
        "available_bytes": available_bytes(torch.device("cpu")),
        "has_bitsandbytes": find_spec("bitsandbytes") is not None,
    }


def _platform() -> str:
    """What this build of torch can use beside the CPU; "" if nothing."""
    if torch.version.hip:
        return f"ROCm {torch.version.hip}"
    return f"CUDA {torch.version.cuda}" if torch.version.cuda else ""


def _gpu(index: int) -> dict[str, Any]:
    free_bytes, total_bytes = torch.cuda.mem_get_info(index)
    name = torch.cuda.get_device_name(index)
    return {"name": name, "free_bytes": free_bytes, "total_bytes": total_bytes}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(survey()) + "\n")
