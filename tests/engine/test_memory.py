"""How large the cache of keys and values is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from olla.engine.memory import available_bytes, cache_tokens
from olla.errors import OutOfMemory


@pytest.mark.parametrize(
    ("wanted", "available", "tokens"),
    [
        (0, 1_000_000, 10_000),
        (0, 10**12, 32 * 2048),
        (50_000, 1_000_000, 500),
        (10**9, 1_000_000, 10_000_000),
    ],
)
def test_the_cache_takes_what_the_user_says_or_a_share_up_to_a_bound(
    wanted: int, available: int, tokens: int
) -> None:
    assert cache_tokens(100, 2048, 16, wanted, available) == tokens


@pytest.mark.parametrize("wanted", [0, 1599])
def test_a_cache_without_room_for_a_block_is_refused(wanted: int) -> None:
    with pytest.raises(OutOfMemory, match="model requires more system memory"):
        cache_tokens(100, 2048, 16, wanted, available=1599)


def test_the_machine_has_memory() -> None:
    assert 2**20 < available_bytes(torch.device("cpu")) < 2**50


LOAD_WITH_LITTLE_MEMORY = """
import resource, sys
from olla.engine.loading import load_model
from olla.errors import OutOfMemory

used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 200 * 2**20,) * 2)
try:
    load_model({"model.gguf": sys.argv[1]}, "float32", "cpu", 1, lambda done, total: None)
except OutOfMemory as error:
    print(error)
"""


@pytest.mark.weights
@pytest.mark.skipif(sys.platform != "linux", reason="limits a process's memory through /proc")
def test_weights_that_do_not_fit_are_a_clear_error(smollm2_gguf: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-c", LOAD_WITH_LITTLE_MEMORY, str(smollm2_gguf)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert "model requires more system memory than is available on cpu" in found.stdout
