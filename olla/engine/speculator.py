"""Speculator: drafts tokens for the sequences of a step, and learns from what became of them.

Drafts come from the sequence's own tokens (lookup.py) or a small model (drafter.py); how many, from
speculation.py. A draft is verified by the step that computes it: each token is drawn as if none had
been drafted, and the draft counts as far as it says the same. So drafts change how long a reply
takes, and what it says only as far as a step's rows change each other's logits: in the compiled
core not at all.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass, field, replace
from itertools import takewhile

from olla.engine.blocks import BlockPool
from olla.engine.drafter import Drafter, Wanted
from olla.engine.loading import LoadedModel
from olla.engine.lookup import GRAM, Lookup, Proposal
from olla.engine.native.decoder import NativeDecoder
from olla.engine.profile import Profile
from olla.engine.reply import Reply
from olla.engine.scheduler import Scheduled
from olla.engine.sequence import Sequence
from olla.engine.speculation import MAX_DRAFT, Acceptance, Offer, StepCosts, mean

_LONG_MATCH = 8
_MODEL, _SHORT, _MIDDLE, _LONG = "model", "short", "middle", "long"
_PRIORS = {_MODEL: 0.6, _SHORT: 0.5, _MIDDLE: 0.7, _LONG: 0.85}


@dataclass(slots=True)
class _History:
    """How drafts for one sequence have fared, by where they come from."""

    lookup: Lookup = field(default_factory=Lookup)
    num_shifts: int = 0
    by_source: dict[str, Acceptance] = field(
        default_factory=lambda: {name: Acceptance(prior) for name, prior in _PRIORS.items()}
    )

    def propose(self, sequence: Sequence, count: int) -> Proposal | None:
        """What came after the sequence's last tokens before."""
        if sequence.num_shifts != self.num_shifts:
            self.lookup, self.num_shifts = Lookup(), sequence.num_shifts
        return self.lookup.propose(sequence.tokens, count)


@dataclass(slots=True)
class _Candidate:
    """What can be drafted for an item: `draft`, or what the small model will say."""

    item: Scheduled
    reply: Reply
    acceptance: Acceptance
    most: int
    draft: list[int] | None

    @property
    def sequence(self) -> Sequence:
        return self.item.sequence


@dataclass(frozen=True, slots=True)
class Speculation:
    """What to draft with: `model` besides the sequences' own tokens, by what `costs` say."""

    costs: StepCosts = field(default_factory=StepCosts)
    model: LoadedModel | None = None


def speculation_of(
    model: LoadedModel, draft: LoadedModel | None, speculate: str
) -> Speculation | None:
    """How to speculate by the setting `OLLA_SPECULATE`; None for not at all.

    By itself only where a wider step gives the same logits: when to draft is decided by the clock,
    and no reply is to depend on that.
    """
    is_exact = isinstance(model.network, NativeDecoder)
    is_wanted = speculate == "on" or draft is not None or is_exact
    return Speculation(model=draft) if is_wanted and speculate != "off" else None


def models_of(model: LoadedModel, speculation: Speculation | None) -> list[LoadedModel]:
    """The model, and the one that drafts for it if there is one."""
    draft = None if speculation is None else speculation.model
    return [model] if draft is None else [model, draft]


class Speculator:
    def __init__(
        self, speculation: Speculation, blocks: BlockPool, model: LoadedModel, profile: Profile
    ) -> None:
        """Args:
        blocks: the cache's, of which drafts take what is free.
        model: the one to draft for.
        """
        self._blocks = blocks
        self._vocab_size = model.network.config.vocab_size
        self._network = model.network
        self._costs = speculation.costs
        self._drafter = None
        if speculation.model is not None:
            self._drafter = Drafter(speculation.model, blocks.num_tokens, profile)
        self._token_s = 0.0
        self._histories: dict[int, _History] = {}
        self._sources: dict[int, Acceptance] = {}

    def extend(self, scheduled: list[Scheduled], replies: Mapping[int, Reply]) -> list[Scheduled]:
        """The same work with drafts where they pay, which is where every sequence decodes."""
        self._sources.clear()
        if not all(item.is_decode and self._may_draft(item.sequence) for item in scheduled):
            return scheduled
        candidates = [self._candidate(item, replies[item.sequence.id]) for item in scheduled]
        offers = [self._offer(candidate) for candidate in candidates]
        lengths = self._costs.lengths(offers)
        self._draft(candidates, lengths)
        return [
            self._with_draft(candidate, length)
            for candidate, length in zip(candidates, lengths, strict=True)
        ]

    def note_step(self, scheduled: Items[Scheduled], seconds: float) -> None:
        """A step in which every sequence decoded took so long, all of it but for drafting."""
        num_drafted = sum(len(item.draft) for item in scheduled)
        self._costs.note(len(scheduled), num_drafted, seconds)

    def note(self, sequence: Sequence, num_accepted: int, num_drafted: int) -> None:
        """Of the tokens drafted for a sequence in this step, so many were what was drawn."""
        sequence.num_drafted += num_drafted
        sequence.num_accepted += num_accepted
        source = self._sources.get(sequence.id)
        if source is not None and num_drafted:
            source.note(num_accepted, num_drafted)

    def forget(self, sequence: Sequence) -> None:
        """The sequence is over."""
        self._histories.pop(sequence.id, None)
        if self._drafter is not None:
            self._drafter.forget(sequence)

    def _may_draft(self, sequence: Sequence) -> bool:
        """What the core computes, drafts may not change by a bit; torch's results they may."""
        network = self._network
        return not isinstance(network, NativeDecoder) or network.is_batch_invariant(
            sequence.adapter
        )

    def _candidate(self, item: Scheduled, reply: Reply) -> _Candidate:
        """The better of the two sources for one sequence."""
        sequence = item.sequence
        history = self._histories.setdefault(sequence.id, _History())
        model = history.by_source[_MODEL]
        most = reply.most_drafted(MAX_DRAFT)
        found = history.propose(sequence, most)
        has_model = self._drafter is not None and not sequence.images
        if found is None:
            return _Candidate(item, reply, model, most if has_model else 0, None)
        acceptance = history.by_source[_source(found.matched)]
        if has_model and acceptance.probability < model.probability:
            return _Candidate(item, reply, model, most, None)
        draft = found.tokens[: reply.num_allowed(found.tokens)]
        return _Candidate(item, reply, acceptance, len(draft), draft)

    def _offer(self, candidate: _Candidate) -> Offer:
        token_s = self._token_s if candidate.draft is None else 0.0
        return Offer(candidate.acceptance.probability, candidate.most, token_s)

    def _draft(self, candidates: Items[_Candidate], lengths: Items[int]) -> None:
        """Let the small model say what it was chosen for."""
        chosen = [
            (candidate, Wanted(candidate.sequence, length))
            for candidate, length in zip(candidates, lengths, strict=True)
            if length and candidate.draft is None
        ]
        if self._drafter is None or not chosen:
            return
        started = time.perf_counter()
        drafts = self._drafter.draft([wanted for _, wanted in chosen])
        num_drafted = sum(map(len, drafts))
        if num_drafted:
            token_s = (time.perf_counter() - started) / num_drafted
            self._token_s = mean(self._token_s, token_s) if self._token_s else token_s
        for (candidate, _), draft in zip(chosen, drafts, strict=True):
            known = list(takewhile(lambda token: token < self._vocab_size, draft))
            candidate.draft = known[: candidate.reply.num_allowed(known)]

    def _with_draft(self, candidate: _Candidate, length: int) -> Scheduled:
        item, sequence = candidate.item, candidate.sequence
        draft = tuple((candidate.draft or ())[:length])
        if not draft or not self._blocks.reserve(sequence, item.num_tokens + len(draft)):
            for acceptance in self._histories[sequence.id].by_source.values():
                acceptance.forget()
            return item
        self._sources[sequence.id] = candidate.acceptance
        return replace(item, draft=draft)


def _source(matched: int) -> str:
    if matched <= GRAM:
        return _SHORT
    return _MIDDLE if matched < _LONG_MATCH else _LONG
