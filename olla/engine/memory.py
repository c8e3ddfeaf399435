"""How much memory there is, and how much of it the cache of keys and values may take."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from olla.errors import OutOfMemory

_CPU_SHARE = 0.25  # of what is available: the machine has other work
_GPU_SHARE = 0.8  # of what is left beside the weights; the rest is for a step's own tensors
_MAX_SEQUENCES = 32  # more than this many full windows are never in use at once


def available_bytes(device: torch.device) -> int:
    """Memory that could be had now without pushing anything out."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        return int(fields["MemAvailable"].split()[0]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out; torch has a class of its own for that on GPUs only."""
    kinds = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, kinds) or "DefaultCPUAllocator" in str(error)


def release_unused() -> None:
    """Give memory that torch keeps for later back to the GPUs."""
    torch.cuda.empty_cache()  # nothing happens where CUDA is not in use


def synchronize() -> None:
    """Wait until the GPU has computed all that it was given."""
    torch.cuda.synchronize()


def cache_tokens(
    bytes_per_token: int, context_length: int, block_size: int, wanted_bytes: int, available: int
) -> int:
    """How many tokens' keys and values to keep.

    Args:
        wanted_bytes: the user's setting; 0 takes a share of `available`.

    Raises:
        OutOfMemory: not even one block fits.
    """
    tokens = (wanted_bytes or available) // max(bytes_per_token, 1)
    if tokens < block_size:
        raise OutOfMemory(
            f"model requires more system memory for its cache ({block_size * bytes_per_token} "
            f"bytes) than is available ({wanted_bytes or available} bytes)"
        )
    return tokens if wanted_bytes else min(tokens, _MAX_SEQUENCES * context_length)


def cache_budget(device: torch.device) -> int:
    """The share of available memory that the cache gets when the user does not say."""
    share = _GPU_SHARE if device.type == "cuda" else _CPU_SHARE
    return int(available_bytes(device) * share)
