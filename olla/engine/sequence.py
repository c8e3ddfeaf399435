"""Sequence: one prompt and its growing reply, from WAITING to FINISHED.

Knows token ids and counts; nothing of tensors, text or other sequences.
"""

from __future__ import annotations

import random
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
    tokens in the window (num_ctx), `num_predict` those of the reply (-1: no cap). While
    `scores_prompt`, the logits of every token are wanted, so that none comes from the cache.
    """

    id: int
    tokens: list[int]
    sampling: SamplingParams
    max_length: int
    num_predict: int = -1
    num_keep: int = 0
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
    num_prompt_tokens: int = field(init=False)
    random: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.num_prompt_tokens = len(self.tokens)
        seed = self.sampling.seed
        self.random = random.Random(None if seed < 0 else seed)

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

    def append(self, token: int) -> None:
        """Add a token of the reply."""
        self.tokens.append(token)
        self.num_generated += 1

    def shift_window(self) -> None:
        """Keep the first `num_keep` tokens and drop half of the rest.

        What moved is computed anew, since keys in the cache carry their positions.
        """
        keep = min(self.num_keep, self.max_length - 1)
        rest = len(self.tokens) - keep
        del self.tokens[keep : keep + max(rest // 2, 1)]
