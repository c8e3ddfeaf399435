"""How large the cache of keys and values is."""

from __future__ import annotations

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
