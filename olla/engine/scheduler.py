"""Which sequences run in this step, and how many tokens of each.

Every running sequence decodes one token each step; what is left of the step's token budget goes
to prompts, first come first served, in chunks, so a long prompt never holds up running replies
for longer than one chunk. Knows no tensors.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from olla.engine.sequence import Sequence, SequenceState

MAX_RUNNING = 32
TOKENS_PER_STEP = 512


@dataclass(frozen=True, slots=True)
class Scheduled:
    """The next `num_tokens` uncomputed tokens of `sequence`."""

    sequence: Sequence
    num_tokens: int

    @property
    def reaches_end(self) -> bool:
        """Whether the step computes the sequence's last token, so that a next one is sampled."""
        return self.num_tokens == self.sequence.num_pending


class Scheduler:
    """First come, first served; at most `max_running` sequences at once."""

    def __init__(
        self, max_running: int = MAX_RUNNING, tokens_per_step: int = TOKENS_PER_STEP
    ) -> None:
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
        """Take a sequence out, finished or not."""
        sequence.state = SequenceState.FINISHED
        if sequence in self._running:
            self._running.remove(sequence)
        else:
            self._waiting.remove(sequence)

    def schedule(self) -> list[Scheduled]:
        """This step's work; empty when there is none."""
        while self._waiting and len(self._running) < self._max_running:
            sequence = self._waiting.popleft()
            sequence.state = SequenceState.RUNNING
            self._running.append(sequence)
        decodes = [Scheduled(s, 1) for s in self._running if s.num_pending == 1]
        return decodes + self._prefills(self._tokens_per_step - len(decodes))

    def _prefills(self, budget: int) -> list[Scheduled]:
        prefills = []
        for sequence in self._running:
            if sequence.num_pending > 1 and budget > 0:
                num_tokens = min(sequence.num_pending, budget)
                prefills.append(Scheduled(sequence, num_tokens))
                budget -= num_tokens
        return prefills
