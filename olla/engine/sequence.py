"""Sequence: one prompt and its growing reply, from WAITING to FINISHED.

Knows token ids and counts; nothing of tensors, text or other sequences.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum

from olla.engine.image_places import PlacedImage
from olla.options import SamplingParams


class SequenceState(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(slots=True, eq=False)
class Sequence:
    """`tokens` is prompt and reply so far; the first `num_computed` of them are in the cache,
    in the blocks of `block_table`. `num_cached` of the prompt were found there at the start. The
    first `num_committed` blocks are findable, and `prefix_serial` names them (blocks.py).

    `adapter` is the engine's number of the adapter in use, 0 for none; `is_merged` says whether it
    is computed with the copy of the weights that has it merged in. `max_length` caps the
    tokens in the window (num_ctx), `num_predict` those of the reply (-1: no cap), `num_draft` those
    that a step drafts (-1: as many as pay); `num_accepted` of `num_drafted` so far were right.
    While `scores_prompt`, the logits of every token are wanted, so that none comes from the cache.
    `num_shifts` counts how often the window moved on.
    """

    id: int
    tokens: list[int]
    sampling: SamplingParams
    max_length: int
    num_predict: int = -1
    num_keep: int = 0
    num_draft: int = -1
    shift: bool = True
    adapter: int = 0
    is_merged: bool = False
    images: tuple[PlacedImage, ...] = ()
    scores_prompt: bool = False
    state: SequenceState = SequenceState.WAITING
    num_computed: int = 0
    num_generated: int = 0
    num_cached: int = 0
    block_table: list[int] = field(default_factory=list)
    num_committed: int = 0
    prefix_serial: int = 0
    num_shifts: int = 0
    num_drafted: int = 0
    num_accepted: int = 0
    num_prompt_tokens: int = field(init=False)
    _random: random.Random = field(init=False)
    _uniforms: deque[float] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self.num_prompt_tokens = len(self.tokens)
        seed = self.sampling.seed
        self._random = random.Random(None if seed < 0 else seed)

    @property
    def num_pending(self) -> int:
        """Tokens still to be computed; 1 while decoding."""
        return len(self.tokens) - self.num_computed

    @property
    def is_full(self) -> bool:
        return len(self.tokens) >= self.max_length

    @property
    def has_predicted_enough(self) -> bool:
        return 0 <= self.num_predict <= self.num_generated

    def uniform(self, ahead: int = 0) -> float:
        """The number in [0, 1) that the next token is drawn by, or the one `ahead` tokens later."""
        while len(self._uniforms) <= ahead:
            self._uniforms.append(self._random.random())
        return self._uniforms[ahead]

    def append(self, token: int) -> None:
        """Add a token of the reply."""
        if self._uniforms:
            self._uniforms.popleft()
        self.tokens.append(token)
        self.num_generated += 1

    def shift_window(self) -> None:
        """Keep the first `num_keep` tokens and drop half of the rest.

        What moved is computed anew, since keys in the cache carry their positions.
        """
        self.num_shifts += 1
        keep = min(self.num_keep, self.max_length - 1)
        rest = len(self.tokens) - keep
        del self.tokens[keep : keep + max(rest // 2, 1)]
