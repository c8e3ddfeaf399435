"""Drafter: a small model that guesses what a large one will say, with a cache of its own.

It follows the sequences of the engine by copies of their tokens, and draws with their random
numbers, so that it guesses what the large model draws wherever the two agree. What it has computed
of a guess that was wrong is computed anew.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from typing import NamedTuple

from olla.engine.blocks import BLOCK_SIZE, BlockPool
from olla.engine.executor import Executor
from olla.engine.loading import LoadedModel
from olla.engine.profile import Profile
from olla.engine.sampler import SamplingRow, sample
from olla.engine.scheduler import Scheduled
from olla.engine.sequence import Sequence
from olla.formats.vocabularies import check_vocabularies

CATCH_UP_TOKENS = 128
"""Tokens of one sequence that are read in a step; one that is further behind drafts later."""


class Wanted(NamedTuple):
    """So many tokens are to be drafted for a sequence."""

    sequence: Sequence
    length: int


class Drafter:
    def __init__(self, model: LoadedModel, cache_tokens: int, profile: Profile) -> None:
        self._blocks = BlockPool(max(cache_tokens // BLOCK_SIZE, 1))
        self._executor = Executor(
            model.network,
            model.device,
            self._blocks.num_blocks,
            BLOCK_SIZE,
            profile,
            record=model.record,
        )
        self._end_ids = model.special_tokens.end_ids
        self._vocab_size = model.network.config.vocab_size
        self._window = model.network.config.context_length
        self._followers: dict[int, Sequence] = {}

    def draft(self, wanted: Items[Wanted]) -> list[list[int]]:
        """Up to `length` tokens for each sequence; none for one that is still being read."""
        drafts: list[list[int]] = [[] for _ in wanted]
        followers = [self._follower(item.sequence) for item in wanted]
        active = [place for place, follower in enumerate(followers) if self._can_go_on(follower)]
        self._read(active, followers)
        ready = [place for place in active if followers[place].num_pending == 1]
        for depth in range(max((wanted[place].length for place in ready), default=0)):
            ready = [place for place in ready if self._wants_more(wanted[place], drafts[place])]
            ready = [place for place in ready if self._blocks.reserve(followers[place], 1)]
            if not ready:
                break
            logits = self._executor.forward([Scheduled(followers[place], 1) for place in ready])
            rows = [_row(wanted[place].sequence, followers[place], depth) for place in ready]
            for place, token in zip(ready, sample(logits, rows), strict=True):
                followers[place].num_computed += 1
                followers[place].tokens.append(token)
                drafts[place].append(token)
        return drafts

    def forget(self, sequence: Sequence) -> None:
        """The sequence is over; what was computed for it may be found again."""
        follower = self._followers.pop(sequence.id, None)
        if follower is not None:
            self._blocks.release(follower)

    def _wants_more(self, wanted: Wanted, draft: list[int]) -> bool:
        is_over = bool(draft) and draft[-1] in self._end_ids
        return len(draft) < wanted.length and not is_over

    def _can_go_on(self, follower: Sequence) -> bool:
        """Whether it fits the model's window and the cache, a token to be drafted included."""
        fits = len(follower.tokens) < self._window
        return fits and self._blocks.reserve(follower, min(follower.num_pending, CATCH_UP_TOKENS))

    def _follower(self, sequence: Sequence) -> Sequence:
        """The copy of a sequence, brought up to what the sequence is now."""
        follower = self._followers.get(sequence.id)
        if follower is None:
            follower = Sequence(
                sequence.id, self._known(sequence.tokens), sequence.sampling, self._window
            )
            follower.num_shifts = sequence.num_shifts
            self._followers[sequence.id] = follower
            self._blocks.reuse_prefix(follower)
            return follower
        if follower.num_shifts != sequence.num_shifts:
            self._blocks.release(follower)
            follower.tokens[:] = self._known(sequence.tokens)
            follower.num_shifts = sequence.num_shifts
            self._blocks.reuse_prefix(follower)
            return follower
        same = _num_same(follower.tokens, sequence.tokens, follower.num_committed * BLOCK_SIZE)
        follower.tokens[same:] = self._known(sequence.tokens[same:])
        follower.num_computed = min(follower.num_computed, same, len(follower.tokens) - 1)
        return follower

    def _known(self, tokens: Items[int]) -> list[int]:
        """Tokens that the model lacks are the first of all: it only guesses."""
        return [token if token < self._vocab_size else 0 for token in tokens]

    def _read(self, active: list[int], followers: list[Sequence]) -> None:
        """Compute what the sequences have grown by, all but the last token."""
        behind = [followers[place] for place in active if followers[place].num_pending > 1]
        read = [
            Scheduled(follower, min(follower.num_pending - 1, CATCH_UP_TOKENS))
            for follower in behind
        ]
        if read:
            self._executor.forward(read)
        for item in read:
            item.sequence.num_computed += item.num_tokens
            self._blocks.commit(item.sequence)


def check_draft(model: LoadedModel, draft: LoadedModel) -> None:
    """
    Raises:
        BadInput: the two number tokens differently, so that one cannot draft for the other.
    """
    own = _vocabulary(model)
    # What an adapter has added is no draft's; it is never drafted.
    check_vocabularies({n: own[n] for n in own if n < model.base_vocab_size}, _vocabulary(draft))


def _vocabulary(model: LoadedModel) -> dict[int, str]:
    return {number: token for token, number in model.tokenizer.get_vocab().items()}


def _row(sequence: Sequence, follower: Sequence, depth: int) -> SamplingRow:
    return SamplingRow(sequence.sampling, follower.tokens, sequence.uniform(depth))


def _num_same(old: list[int], new: list[int], start: int) -> int:
    """How many tokens both begin with, the first `start` for certain."""
    most = min(len(old), len(new))
    return next((at for at in range(start, most) if old[at] != new[at]), most)
