"""Engine: add, cancel, step. One step is one forward pass for every running sequence.

It speaks the runner's messages and knows nothing of pipes or threads: whoever owns it calls it
from one thread.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from olla.engine.adapters import AdapterTable
from olla.engine.blocks import BLOCK_SIZE, BlockPool
from olla.engine.detokenizer import Detokenizer
from olla.engine.executor import Executor
from olla.engine.loading import LoadedModel
from olla.engine.sampler import SamplingRow, sample
from olla.engine.scheduler import TOKENS_PER_STEP, Scheduler
from olla.engine.sequence import Sequence
from olla.engine.stops import StopScanner
from olla.errors import BadInput, PromptTooLong
from olla.requests import DoneReason
from olla.runner.protocol import Finished, FromRunner, Generate, Piece

DEFAULT_CACHE_TOKENS = 16384
_SHORTEST_WINDOW = 2  # a token to go on from, and room for one more


@dataclass(slots=True)
class Reply:
    """What turns one sequence's tokens into messages."""

    sequence: Sequence
    detokenizer: Detokenizer
    stops: StopScanner
    wants_context: bool
    started_ns: int = 0
    first_token_ns: int = 0


class Engine:
    def __init__(
        self,
        model: LoadedModel,
        cache_tokens: int = DEFAULT_CACHE_TOKENS,
        tokens_per_step: int = TOKENS_PER_STEP,
    ) -> None:
        """Args:
        cache_tokens: how many tokens' keys and values are kept, of all sequences together.
        """
        self._blocks = BlockPool(max(cache_tokens // BLOCK_SIZE, 1))
        self._tokenizer = model.tokenizer
        self._special_tokens = model.special_tokens
        self._vocab_size = model.network.config.vocab_size
        self._context_length = model.network.config.context_length
        self._executor = Executor(
            model.network, model.device, self._blocks.num_blocks, self._blocks.block_size
        )
        self._adapters = AdapterTable(model.network)
        self._scheduler = Scheduler(self._blocks, tokens_per_step=tokens_per_step)
        self._replies: dict[int, Reply] = {}

    @property
    def has_work(self) -> bool:
        return bool(self._replies)

    @property
    def num_cache_tokens(self) -> int:
        """The most tokens that one sequence can have."""
        return self._blocks.num_tokens

    @property
    def num_free_blocks(self) -> int:
        """Blocks of the cache that no sequence uses."""
        return self._blocks.num_free

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        """Token ids of `text`. Safe to call from other threads than the one that steps.

        Raises:
            BadInput: it holds what the vocabulary has no token for, not even an unknown one.
        """
        try:
            tokens: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        except Exception as error:  # tokenizers raises nothing narrower
            raise BadInput(f"the text cannot be tokenized: {error}") from error
        bos = self._special_tokens.bos_id
        if add_special_tokens and bos is not None and tokens[:1] != [bos]:
            return [bos, *tokens]
        return tokens

    def decode(self, tokens: list[int]) -> str:
        """The text of `tokens`, special ones included. As safe as `encode`.

        Raises:
            BadInput: a number that is no token.
        """
        self._check_tokens(tokens)
        return str(self._tokenizer.decode(tokens, skip_special_tokens=False))

    def add(self, request: Generate, tokens: list[int]) -> None:
        """Queue a request whose context and prompt are `tokens`.

        Raises:
            BadInput: nothing to go on from, or a number that is no token.
            PromptTooLong: it does not fit and may not be shortened.
            FormatError: the adapter is broken or does not fit.
        """
        self._check_tokens(tokens)
        if not tokens:
            raise BadInput("the prompt is empty")
        keep = len(tokens) if request.num_keep < 0 else request.num_keep
        keep += int(tokens[0] == self._special_tokens.bos_id)
        most = min(self.num_cache_tokens, self._context_length)
        window = max(min(request.num_ctx, most), _SHORTEST_WINDOW)
        in_use = {sequence.adapter for sequence in self._scheduler}
        sequence = Sequence(
            id=request.id,
            tokens=fit_prompt(tokens, request, window, keep),
            sampling=request.sampling,
            max_length=window,
            num_predict=request.num_predict,
            num_keep=keep,
            shift=request.shift,
            adapter=self._adapters.number(request.adapters, in_use),
        )
        self._replies[request.id] = Reply(
            sequence=sequence,
            detokenizer=Detokenizer(self._tokenizer, sequence.tokens, request.shown_tokens),
            stops=StopScanner(request.stop),
            wants_context=request.want_context,
        )
        self._scheduler.add(sequence)

    def cancel(self, request_id: int) -> None:
        """Forget a request; one that is finished already is no error."""
        reply = self._replies.pop(request_id, None)
        if reply is not None:
            self._remove(reply)

    def step(self) -> list[FromRunner]:
        """One forward pass; the messages that came of it."""
        scheduled = self._scheduler.schedule()
        if not scheduled:
            return []
        now = time.monotonic_ns()
        for item in scheduled:
            reply = self._replies[item.sequence.id]
            reply.started_ns = reply.started_ns or now
        sequences = [item.sequence for item in scheduled if item.reaches_end]
        logits = self._executor.forward(scheduled)
        self._scheduler.committed(scheduled)
        rows = [SamplingRow(s.sampling, s.tokens, s.random.random()) for s in sequences]
        tokens = sample(logits, rows) if rows else []
        messages: list[FromRunner] = []
        for sequence, token in zip(sequences, tokens, strict=True):
            messages += self._accept(self._replies[sequence.id], token)
        return messages

    def _accept(self, reply: Reply, token: int) -> list[FromRunner]:
        """Add a sampled token to its reply; the reply may end with it."""
        sequence = reply.sequence
        reply.first_token_ns = reply.first_token_ns or time.monotonic_ns()
        if sequence.has_predicted_enough:
            return self._finish(reply, DoneReason.LENGTH)
        if token in self._special_tokens.end_ids:
            sequence.num_generated += 1
            return self._finish(reply, DoneReason.STOP)
        sequence.append(token)
        text = reply.stops.push(reply.detokenizer.push(token))
        messages: list[FromRunner] = [Piece(sequence.id, text)] if text else []
        if reply.stops.stopped:
            return messages + self._finish(reply, DoneReason.STOP)
        if sequence.has_predicted_enough or (sequence.is_full and not sequence.shift):
            return messages + self._finish(reply, DoneReason.LENGTH)
        if sequence.is_full:
            self._scheduler.shift(sequence)
        return messages

    def _finish(self, reply: Reply, reason: DoneReason) -> list[FromRunner]:
        sequence = reply.sequence
        rest = reply.stops.push(reply.detokenizer.finish()) + reply.stops.finish()
        del self._replies[sequence.id]
        self._remove(reply)
        finished = Finished(
            id=sequence.id,
            reason=reason,
            num_prompt_tokens=sequence.num_prompt_tokens,
            prompt_ns=reply.first_token_ns - reply.started_ns,
            num_tokens=sequence.num_generated,
            generation_ns=time.monotonic_ns() - reply.first_token_ns,
            num_cached_tokens=sequence.num_cached,
            context=sequence.tokens if reply.wants_context else [],
        )
        return [Piece(sequence.id, rest), finished] if rest else [finished]

    def _remove(self, reply: Reply) -> None:
        self._scheduler.remove(reply.sequence)

    def _check_tokens(self, tokens: list[int]) -> None:
        bad = [token for token in tokens if not 0 <= token < self._vocab_size]
        if bad:
            raise BadInput(f"token {bad[0]} is not in the vocabulary of {self._vocab_size}")


def fit_prompt(tokens: list[int], request: Generate, window: int, num_keep: int) -> list[int]:
    """The prompt, cut to the window as spec/modelfile.md section 7 step 2 says.

    Raises:
        PromptTooLong: it does not fit and may not be shortened.
    """
    if len(tokens) < window:
        return list(tokens)
    if not (request.shift and request.truncate):
        raise PromptTooLong(
            "the prompt is longer than the context length currently available to the model; "
            "shorten the prompt, adjust the context length in settings, or use a model with "
            "a longer context length"
        )
    keep = min(num_keep, window - 1)
    length = window - max((window - keep) // 2, 1)
    tail = length - keep
    return tokens[:keep] + (tokens[-tail:] if tail > 0 else [])
