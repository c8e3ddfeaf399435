"""Whatever comes, leaves and shifts, every sequence ends, as it would have ended alone."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from olla.engine.blocks import BlockPool
from olla.engine.scheduler import Scheduler
from olla.engine.sequence import Sequence
from olla.options import SamplingParams

NUM_BLOCKS, BLOCK_SIZE = 8, 4
MOST_TOKENS = NUM_BLOCKS * BLOCK_SIZE

Cache = dict[int, tuple[int, tuple[int, ...]]]

requests = st.tuples(
    st.integers(1, MOST_TOKENS - 1),  # prompt
    st.integers(1, 40),  # reply
    st.integers(0, 2),  # adapter
    st.integers(2, MOST_TOKENS),  # window
    st.integers(0, MOST_TOKENS),  # num_keep
)
actions = st.lists(
    st.one_of(
        requests, st.tuples(st.just("leave"), st.integers(0, 30)), st.tuples(st.just("step"))
    ),
    max_size=60,
)


class Loop:
    """The engine's loop over a model whose next token is a digest of the sequence and adapter.

    `cache` is what the model would find: for each place, the adapter and tokens up to there.
    """

    def __init__(self, num_blocks: int, tokens_per_step: int) -> None:
        self.pool = BlockPool(num_blocks, BLOCK_SIZE)
        self.scheduler = Scheduler(self.pool, max_running=4, tokens_per_step=tokens_per_step)
        self.cache: Cache = {}
        self.replies: dict[int, list[int]] = {}

    def add(self, number: int, request: tuple[int, int, int, int, int]) -> None:
        prompt, reply, adapter, window, keep = request
        self.scheduler.add(
            Sequence(
                id=number,
                tokens=[place % 3 for place in range(min(prompt, window - 1))],
                sampling=SamplingParams(),
                max_length=window,
                num_predict=reply,
                num_keep=keep,
                adapter=adapter,
            )
        )
        self.replies[number] = []

    def leave(self, number: int) -> None:
        for sequence in list(self.scheduler):
            if sequence.id == number:
                self.scheduler.remove(sequence)
                del self.replies[number]

    def step(self) -> None:
        scheduled = self.scheduler.schedule()
        assert bool(scheduled) == bool(list(self.scheduler)), "somebody runs while anybody is there"
        for item in scheduled:
            self._compute(item.sequence, item.num_tokens)
        done = [item.sequence for item in scheduled if item.reaches_end]
        self.scheduler.committed(scheduled)
        for sequence in done:
            token = hash((sequence.adapter, tuple(sequence.tokens))) % 3
            self.replies[sequence.id].append(token)
            sequence.append(token)
            if sequence.has_predicted_enough:
                self.scheduler.remove(sequence)
            elif sequence.is_full:
                self.scheduler.shift(sequence)

    def _compute(self, sequence: Sequence, num_tokens: int) -> None:
        """Fill places; all places before must hold what this very sequence would have put there."""
        end = sequence.num_computed + num_tokens
        for index in range(end):
            place = sequence.block_table[index // BLOCK_SIZE] * BLOCK_SIZE + index % BLOCK_SIZE
            content = (sequence.adapter, tuple(sequence.tokens[: index + 1]))
            if index >= sequence.num_computed:
                self.cache[place] = content
            assert self.cache[place] == content

    def finish(self) -> None:
        for _ in range(5000):
            if not list(self.scheduler):
                return
            self.step()
        raise AssertionError("somebody never ends")


@settings(max_examples=150, deadline=None)
@given(actions=actions, tokens_per_step=st.sampled_from([1, 3, 16]))
def test_every_sequence_ends_as_it_would_alone(actions: list[Any], tokens_per_step: int) -> None:
    loop = Loop(NUM_BLOCKS, tokens_per_step)
    added: dict[int, Any] = {}
    for action in actions:
        if action[0] == "step":
            loop.step()
        elif action[0] == "leave":
            loop.leave(action[1])
        else:
            added[len(added)] = action
            loop.add(len(added) - 1, action)
    loop.finish()

    assert loop.pool.num_free == NUM_BLOCKS
    for number, reply in loop.replies.items():
        alone = Loop(1000, 512)
        alone.add(number, added[number])
        alone.finish()
        assert reply == alone.replies[number]
