"""Blocks: whose they are, what is found again, and what goes first when room is wanted."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from olla.engine.blocks import BlockPool
from olla.engine.sequence import Sequence
from olla.options import SamplingParams


def sequence(tokens: list[int], adapter: int = 0) -> Sequence:
    return Sequence(
        id=0, tokens=tokens, sampling=SamplingParams(), max_length=1000, adapter=adapter
    )


def compute(pool: BlockPool, tokens: list[int], adapter: int = 0) -> Sequence:
    """A sequence that has computed all its tokens; how many it found is its `num_cached`."""
    made = sequence(tokens, adapter)
    pool.reuse_prefix(made)
    made.num_cached = made.num_computed
    assert pool.reserve(made, made.num_pending)
    made.num_computed = len(tokens)
    pool.commit(made)
    return made


def num_found(pool: BlockPool, tokens: list[int], adapter: int = 0) -> int:
    probe = sequence(tokens, adapter)
    pool.reuse_prefix(probe)
    found = probe.num_computed
    pool.release(probe)
    return found


def test_a_prefix_is_found_block_by_block() -> None:
    pool = BlockPool(8, block_size=4)
    compute(pool, list(range(10)))

    assert num_found(pool, [*range(8), 99, 98]) == 8
    assert num_found(pool, [0, 1, 2, 3, 99, 5, 6, 7, 8]) == 4
    assert num_found(pool, [99, *range(1, 10)]) == 0


def test_one_token_is_always_left_to_compute() -> None:
    pool = BlockPool(8, block_size=4)
    compute(pool, list(range(8)))

    assert num_found(pool, list(range(8))) == 4


def test_a_block_is_not_found_behind_another_beginning() -> None:
    """The same four tokens mean something else after other ones."""
    pool = BlockPool(8, block_size=4)
    compute(pool, [1, 1, 1, 1, 5, 6, 7, 8])

    assert num_found(pool, [2, 2, 2, 2, 5, 6, 7, 8, 9]) == 0
    assert num_found(pool, [5, 6, 7, 8, 9]) == 0


def test_what_one_adapter_computed_is_not_found_by_another() -> None:
    pool = BlockPool(8, block_size=4)
    compute(pool, list(range(8)), adapter=1)

    assert num_found(pool, list(range(9)), adapter=1) == 8
    assert num_found(pool, list(range(9)), adapter=2) == 0
    assert num_found(pool, list(range(9))) == 0


def test_a_prefix_in_use_is_shared_and_freed_once() -> None:
    pool = BlockPool(4, block_size=4)
    first = compute(pool, list(range(8)))
    second = compute(pool, [*range(8), 99])

    assert second.num_cached == 8
    assert second.block_table[:2] == first.block_table
    assert pool.num_free == 1
    pool.release(first)
    assert pool.num_free == 1
    pool.release(second)
    assert pool.num_free == 4


def test_the_least_recently_used_goes_first_and_a_prefix_after_what_builds_on_it() -> None:
    pool = BlockPool(4, block_size=4)
    old, young = list(range(8)), list(range(100, 108))
    pool.release(compute(pool, old))
    pool.release(compute(pool, young))

    compute(pool, [200, 201, 202, 203])

    assert num_found(pool, [*old, 0]) == 4
    assert num_found(pool, [*young, 0]) == 8


def test_using_a_prefix_again_keeps_it() -> None:
    pool = BlockPool(2, block_size=4)
    pool.release(compute(pool, [1, 1, 1, 1]))
    pool.release(compute(pool, [2, 2, 2, 2]))
    num_found(pool, [1, 1, 1, 1, 9])

    compute(pool, [3, 3, 3, 3])

    assert num_found(pool, [1, 1, 1, 1, 9]) == 4
    assert num_found(pool, [2, 2, 2, 2, 9]) == 0


def test_what_two_compute_at_once_is_found_once() -> None:
    pool = BlockPool(4, block_size=4)
    twins = [sequence(list(range(8))) for _ in range(2)]
    for twin in twins:
        pool.reuse_prefix(twin)
        assert pool.reserve(twin, 8)
    for twin in twins:
        twin.num_computed = 8
        pool.commit(twin)
        pool.release(twin)

    assert num_found(pool, [*range(8), 9]) == 8
    assert pool.num_free == 4


def test_a_full_pool_gives_nothing_and_takes_nothing() -> None:
    pool = BlockPool(2, block_size=4)
    compute(pool, list(range(5)))
    waiting = sequence(list(range(100, 104)))

    assert not pool.reserve(waiting, 4)
    assert waiting.block_table == []


@given(seed=st.integers(0, 2**32))
def test_no_block_is_lost_or_given_twice(seed: int) -> None:
    chance = random.Random(seed)
    pool = BlockPool(10, block_size=2)
    alive: list[Sequence] = []
    for _ in range(60):
        if alive and chance.random() < 0.5:
            pool.release(alive.pop(chance.randrange(len(alive))))
            continue
        made = sequence([chance.randrange(2) for _ in range(chance.randrange(1, 9))])
        pool.reuse_prefix(made)
        if pool.reserve(made, made.num_pending):
            computed_before = made.num_computed
            made.num_computed = len(made.tokens)
            pool.commit(made)
            alive.append(made)
            # What it is to write into is nobody else's.
            own = set(made.block_table[computed_before // 2 :])
            others = {number for other in alive[:-1] for number in other.block_table}
            assert not own & others
        else:
            pool.release(made)
        used = {number for user in alive for number in user.block_table}
        assert len(used) + pool.num_free == 10
