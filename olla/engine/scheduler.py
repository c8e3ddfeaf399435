"""Which sequences run in this step, and how many tokens of each.

Every running sequence decodes one token each step; what is left of the step's token budget goes
to prompts in chunks, first come first served, but none takes more than half of what is left while
others want some: so a long prompt holds up neither running replies nor short prompts for long.
When the cache is full the youngest sequence gives up its blocks and waits its turn again.
Knows no tensors.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from olla.engine.blocks import BlockPool
from olla.engine.image_places import end_of_chunk
from olla.engine.sequence import Sequence, SequenceState
from olla.runner.protocol import MAX_RUNNING

TOKENS_PER_STEP = 512
TOKENS_PER_STEP_WHILE_DECODING = 128


@dataclass(frozen=True, slots=True)
class Scheduled:
    """The next `num_tokens` uncomputed tokens of `sequence`, and a `draft` of what may follow."""

    sequence: Sequence
    num_tokens: int
    draft: tuple[int, ...] = ()

    @property
    def reaches_end(self) -> bool:
        """Whether the step computes the sequence's last token, so that a next one is sampled."""
        return self.num_tokens == self.sequence.num_pending

    @property
    def is_decode(self) -> bool:
        """Whether it is a reply's newest token."""
        return self.num_tokens == 1 and self.reaches_end and self.sequence.num_generated > 0

    @property
    def num_logits(self) -> int:
        """Of how many of the tokens, the last ones, the step gives logits."""
        if self.sequence.scores_prompt:
            return self.num_tokens
        return int(self.reaches_end) + len(self.draft)

    @property
    def end(self) -> int:
        """Where the tokens to compute end, those of the draft included."""
        return self.sequence.num_computed + self.num_tokens + len(self.draft)

    @property
    def tokens(self) -> list[int]:
        """The tokens to compute."""
        sequence = self.sequence
        first = sequence.num_computed
        return [*sequence.tokens[first : first + self.num_tokens], *self.draft]


class Scheduler:
    """Sequences in the order they came; at most `max_running` of them at once."""

    def __init__(
        self,
        blocks: BlockPool,
        max_running: int = MAX_RUNNING,
        tokens_per_step: int = TOKENS_PER_STEP,
    ) -> None:
        self._blocks = blocks
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []
        self._max_running = max_running
        self._tokens_per_step = tokens_per_step

    def __iter__(self) -> Iterator[Sequence]:
        yield from self._running
        yield from self._waiting

    def add(self, sequence: Sequence) -> None:
        self._waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out, finished or not; what it computed may be found again."""
        self._blocks.commit(sequence)
        self._blocks.release(sequence)
        if sequence.state is SequenceState.RUNNING:
            self._running.remove(sequence)
        else:
            self._waiting.remove(sequence)
        sequence.state = SequenceState.FINISHED

    def shift(self, sequence: Sequence) -> None:
        """Make room in a running sequence's full window."""
        self._blocks.release(sequence)
        sequence.shift_window()
        self._blocks.reuse_prefix(sequence)
        # It gave back what it needs now, but for blocks that others use as well.
        if not self._blocks.reserve(sequence, sequence.num_pending):
            self._preempt(sequence)

    def schedule(self) -> list[Scheduled]:
        """This step's work; empty when there is none."""
        decodes = self._decodes()
        self._admit()
        budget = self._tokens_per_step
        if decodes:
            budget = min(budget, TOKENS_PER_STEP_WHILE_DECODING)
        return decodes + self._prefills(budget, {item.sequence for item in decodes})

    def committed(self, scheduled: list[Scheduled]) -> None:
        """The step is computed: what it filled may be found by others."""
        for item in scheduled:
            item.sequence.num_computed += item.num_tokens
            self._blocks.commit(item.sequence)

    def _decodes(self) -> list[Scheduled]:
        decodes = []
        for sequence in list(self._running):
            # One that had to make way for an older one in this loop is no longer running.
            is_decoding = sequence.state is SequenceState.RUNNING and sequence.num_pending == 1
            if is_decoding and self._make_room(sequence):
                decodes.append(Scheduled(sequence, 1))
        return decodes

    def _make_room(self, sequence: Sequence) -> bool:
        """Find a place for one more token, if need be at the cost of the youngest.

        Returns:
            False if the youngest is the sequence itself, which now waits.
        """
        while not self._blocks.reserve(sequence, 1):
            youngest = self._running[-1]
            self._preempt(youngest)
            if youngest is sequence:
                return False
        return True

    def _admit(self) -> None:
        """Let those who wait run, while the cache has room for all that they are to compute."""
        while self._waiting and len(self._running) < self._max_running:
            sequence = self._waiting[0]
            self._blocks.reuse_prefix(sequence)
            has_room = self._blocks.reserve(sequence, sequence.num_pending)
            # A block to grow by for each that runs, or the newcomer would soon be preempted.
            if not has_room or self._blocks.num_free < len(self._running):
                self._blocks.release(sequence)
                return
            if not sequence.num_generated:
                sequence.num_cached = sequence.num_computed
            sequence.state = SequenceState.RUNNING
            self._running.append(self._waiting.popleft())

    def _prefills(self, budget: int, decoding: set[Sequence]) -> list[Scheduled]:
        prefills = []
        pending = [sequence for sequence in self._running if sequence not in decoding]
        for number, sequence in enumerate(pending, 1):
            share = budget if number == len(pending) else -(-budget // 2)
            first = sequence.num_computed
            end = first + min(sequence.num_pending, share)
            num_tokens = end_of_chunk(sequence.images, first, end) - first if share > 0 else 0
            if num_tokens:
                prefills.append(Scheduled(sequence, num_tokens))
                budget -= num_tokens
        return prefills

    def _preempt(self, sequence: Sequence) -> None:
        """Put a sequence back in front of those who wait; what it computed may be found again."""
        self._blocks.release(sequence)
        self._running.remove(sequence)
        sequence.state = SequenceState.WAITING
        self._waiting.appendleft(sequence)
