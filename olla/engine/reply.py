"""Reply: turns one sequence's tokens into messages, and says when they are enough.

Knows text, stop strings, the constraint and what was asked to come along; nothing of other replies.
"""

from __future__ import annotations

import time
from collections.abc import Sequence as Rows
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from olla.engine.detokenizer import Detokenizer
from olla.engine.grammar import Constraint
from olla.engine.image_places import without_images
from olla.engine.logprobs import LogprobQueue, describe
from olla.engine.loops import EqualPieces, TokenLoop
from olla.engine.sampler import Bias, SamplingRow, penalizes
from olla.engine.sequence import Sequence
from olla.engine.stops import StopScanner
from olla.engine.token_bytes import TokenBytes
from olla.errors import NoTokenAllowed
from olla.options import SamplingParams
from olla.requests import DoneReason, TokenLogprob
from olla.runner.protocol import Finished, Generate, Piece


@dataclass(slots=True)
class Reply:
    """`echo` is the prompt's text until it has been sent. `prompt_logprobs` are those of the
    prompt's tokens but the first, as far as they are known. `failure` is why it cannot go on.
    """

    sequence: Sequence
    request: Generate
    detokenizer: Detokenizer
    stops: StopScanner
    queue: LogprobQueue
    equal_pieces: EqualPieces
    loop: TokenLoop | None
    constraint: Constraint | None
    bias: Bias | None
    echo: str | None
    num_truncated: int
    repeats: bool = False
    failure: NoTokenAllowed | None = None
    started_ns: int = 0
    first_token_ns: int = 0
    prompt_logprobs: list[TokenLogprob] = field(default_factory=list)

    @classmethod
    def begin(
        cls,
        request: Generate,
        sequence: Sequence,
        tokenizer: Tokenizer,
        constraint: Constraint | None,
        bias: Bias | None,
        num_truncated: int,
    ) -> Reply:
        """The reply to a request whose prompt, cut by `num_truncated` tokens, is in `sequence`."""
        is_whole = not (request.context or num_truncated)
        return cls(
            sequence=sequence,
            request=request,
            detokenizer=Detokenizer(tokenizer, sequence.tokens, request.shown_tokens),
            stops=StopScanner(request.stop),
            queue=LogprobQueue(),
            equal_pieces=EqualPieces(),
            loop=TokenLoop() if repeats_for_certain(request.sampling) else None,
            constraint=constraint,
            bias=bias,
            echo=_prompt_text(request.prompt if is_whole else "", sequence, tokenizer)
            if request.echo
            else None,
            num_truncated=num_truncated,
        )

    @property
    def ending(self) -> DoneReason | None:
        """Why the reply ends here, if it does."""
        if self.stops.matched or (self.constraint is not None and self.constraint.is_complete):
            return DoneReason.STOP
        sequence = self.sequence
        is_cut = sequence.has_predicted_enough or (sequence.is_full and not sequence.shift)
        return DoneReason.LENGTH if is_cut or self.repeats else None

    def sampling_rows(self, vocab_size: int, draft: Rows[int] = ()) -> list[SamplingRow]:
        """What the next token is drawn by, and each that follows if `draft` begins as it should.

        There are fewer where the draft leaves the grammar. `failure` is set if there can be no
        next token.
        """
        mask = None
        if self.constraint is not None:
            try:
                mask = self.constraint.mask(vocab_size)
            except NoTokenAllowed as error:
                self._give_up_constraint(error)
        rows = [self._row(draft[:0], mask)]
        ahead = self.constraint.copy() if draft and self.constraint is not None else None
        for end, token in enumerate(draft, 1):
            if ahead is not None:
                try:
                    ahead.accept(token)
                    if ahead.is_complete:
                        break
                    mask = ahead.mask(vocab_size)
                except NoTokenAllowed:
                    break
            rows.append(self._row(draft[:end], mask))
        return rows

    def _row(self, draft: Rows[int], mask: NDArray[np.uint8] | None) -> SamplingRow:
        """What the token after `draft` is drawn by."""
        sequence = self.sequence
        history: Rows[int] = sequence.tokens
        if draft and penalizes(sequence.sampling):
            history = [*history, *draft]
        uniform = sequence.uniform(len(draft))
        return SamplingRow(sequence.sampling, history, uniform, self.bias, mask)

    def num_allowed(self, draft: Rows[int]) -> int:
        """How many tokens of a draft the grammar has nothing against."""
        return len(draft) if self.constraint is None else self.constraint.num_allowed(draft)

    def most_drafted(self, wanted: int) -> int:
        """How many of `wanted` tokens can be drafted before the reply or its window is full."""
        sequence = self.sequence
        room = sequence.max_length - len(sequence.tokens) - 1
        if sequence.num_predict >= 0:
            room = min(room, sequence.num_predict - sequence.num_generated - 1)
        return min(wanted if sequence.num_draft < 0 else sequence.num_draft, wanted, max(room, 0))

    def _give_up_constraint(self, error: NoTokenAllowed) -> None:
        """The reply goes on without, where that is allowed."""
        grammar = self.request.grammar
        if grammar is not None and grammar.is_optional:
            self.constraint = None
        else:
            self.failure = error

    def score_prompt(self, first: int, logprobs: list[TokenLogprob]) -> None:
        """Note the logprobs of the prompt's tokens from `first` + 1 on."""
        # A sequence that had to make way begins its prompt anew.
        del self.prompt_logprobs[first:]
        self.prompt_logprobs += logprobs

    def begin_text(self, token_bytes: TokenBytes) -> list[Piece]:
        """What comes before the first token: the prompt, if it was to be repeated."""
        if self.echo is None:
            return []
        logprobs = []
        if self.request.logprobs:
            first = describe(self.sequence.tokens[0], None, token_bytes)
            logprobs = [first, *self.prompt_logprobs]
        piece = Piece(self.sequence.id, self.echo, logprobs)
        self.echo, self.prompt_logprobs = None, []
        return [piece]

    def push(self, token: int, logprob: TokenLogprob | None) -> list[Piece]:
        """Add a token that the sequence has grown by; what can be shown now.

        Raises:
            NoTokenAllowed: the constraint does not allow it.
        """
        if self.constraint is not None:
            self.constraint.accept(token)
        text = self.detokenizer.push(token)
        shown = self.stops.push(text)
        logprobs: list[TokenLogprob] = []
        if logprob is not None:
            self.queue.push(logprob, text)
            logprobs = self.queue.show(shown)
        self.repeats = bool(shown) and self.equal_pieces.push(shown)
        self.repeats |= self.loop is not None and self.loop.push(token)
        return self._pieces(shown, logprobs)

    def finish(self, reason: DoneReason) -> list[Piece | Finished]:
        """The last of the text, and the last word."""
        rest = self.stops.push(self.detokenizer.finish()) + self.stops.finish()
        logprobs = self.queue.finish(rest, is_cut=self.stops.stopped)
        sequence = self.sequence
        finished = Finished(
            id=sequence.id,
            reason=DoneReason.STOP if self.stops.stopped else reason,
            num_prompt_tokens=sequence.num_prompt_tokens,
            prompt_ns=self.first_token_ns - self.started_ns,
            num_tokens=sequence.num_generated,
            generation_ns=time.monotonic_ns() - self.first_token_ns,
            num_cached_tokens=sequence.num_cached,
            context=without_images(sequence.tokens, sequence.images)
            if self.request.want_context
            else [],
            num_truncated_tokens=self.num_truncated,
            stop_sequence=self.stops.matched,
            num_drafted_tokens=sequence.num_drafted,
            num_accepted_tokens=sequence.num_accepted,
        )
        return [*self._pieces(rest, logprobs), finished]

    def _pieces(self, text: str, logprobs: list[TokenLogprob]) -> list[Piece]:
        return [Piece(self.sequence.id, text, logprobs)] if text or logprobs else []


def repeats_for_certain(sampling: SamplingParams) -> bool:
    """Whether nothing but the growing context can lead a reply out of a circle."""
    is_greedy = not sampling.temperature > 0
    penalties = (sampling.presence_penalty, sampling.frequency_penalty)
    return is_greedy and sampling.repeat_penalty == 1.0 and not any(penalties)


def _prompt_text(text: str, sequence: Sequence, tokenizer: Tokenizer) -> str:
    """The prompt word for word where there is one, else what its tokens decode to."""
    return text or str(tokenizer.decode(sequence.tokens, skip_special_tokens=False))
