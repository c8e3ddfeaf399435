"""Engine: add, cancel, step. One step is one forward pass for every running sequence.

It speaks the runner's messages and knows nothing of pipes or threads: whoever owns it calls it
from one thread.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor

from olla.engine.adapters import NO_ADAPTER, AdapterTable
from olla.engine.blocks import BLOCK_SIZE, BlockPool
from olla.engine.executor import Executor
from olla.engine.grammar import Constraint, Grammars
from olla.engine.image_places import PlacedImage
from olla.engine.loading import LoadedModel
from olla.engine.logprobs import score
from olla.engine.memory import is_out_of_memory, release_unused
from olla.engine.merging import PATIENCE, Merging, room_on
from olla.engine.profile import NoProfile, Profile
from olla.engine.prompt import check_echo, check_request, fit_prompt
from olla.engine.prompt_reader import PromptReader
from olla.engine.reply import Reply
from olla.engine.sampler import Bias
from olla.engine.scheduler import TOKENS_PER_STEP, Scheduled, Scheduler
from olla.engine.sequence import Sequence, SequenceState
from olla.engine.speculator import Speculation, Speculator, models_of
from olla.engine.token_bytes import TokenBytes
from olla.engine.verification import Verified, verify
from olla.errors import NoTokenAllowed, OutOfMemory, RunnerError
from olla.options import SamplingParams
from olla.requests import DoneReason, TokenLogprob
from olla.runner.protocol import MAX_RUNNING, Failed, FailureKind, FromRunner, Generate, Grammar

DEFAULT_CACHE_TOKENS = 16384


class Engine:
    def __init__(
        self,
        model: LoadedModel,
        cache_tokens: int = DEFAULT_CACHE_TOKENS,
        tokens_per_step: int = TOKENS_PER_STEP,
        max_running: int = MAX_RUNNING,
        profile: Profile | None = None,
        merge_after: int = PATIENCE,
        speculation: Speculation | None = None,
    ) -> None:
        """Args:
        cache_tokens: how many tokens' keys and values are kept, of all sequences together.
        merge_after: steps of one adapter alone before it is merged into a copy of the weights.
        speculation: how tokens are drafted; None drafts none.
        """
        network = model.network
        profile = self._profile = profile or NoProfile()
        self._blocks = BlockPool(max(cache_tokens // BLOCK_SIZE, 1))
        self.reader = PromptReader(model, self._blocks.num_tokens)
        self.encode, self.decode = self.reader.encode, self.reader.decode
        self._tokenizer, self._special_tokens = model.tokenizer, model.special_tokens
        self._vocab_size, self._base_vocab_size = network.config.vocab_size, model.base_vocab_size
        self._merging = Merging(network, model.dtype, merge_after, partial(room_on, model.device))
        executor = (network, model.device, self._blocks.num_blocks, BLOCK_SIZE, profile)
        self._executor = Executor(*executor, self._merging, model.record)
        self._token_bytes = TokenBytes(model.tokenizer)
        self._grammars = Grammars(model.tokenizer, self._vocab_size, model.special_tokens.end_ids)
        self._device = device = model.device
        self._adapters = AdapterTable(
            network, keeps_read=device.type != "cpu", on_removed=self._merging.drop
        )
        self._scheduler = Scheduler(self._blocks, max_running, tokens_per_step)
        self._replies: dict[int, Reply] = {}
        self._models = models_of(model, speculation)
        self._speculator = None
        if speculation is not None:
            self._speculator = Speculator(speculation, self._blocks, model, profile)

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

    @property
    def num_used_tokens(self) -> int:
        """Tokens' places in the cache that sequences use."""
        return (self._blocks.num_blocks - self._blocks.num_free) * BLOCK_SIZE

    @property
    def num_merged_bytes(self) -> int:
        """Memory of the weights with an adapter merged in; 0 while there are none."""
        return self._merging.copy.num_bytes if self._merging.copy else 0

    @property
    def num_bytes(self) -> int:
        """Memory of the weights, those of a model that drafts included."""
        return sum(model.num_bytes for model in self._models)

    @property
    def cache_bytes_per_token(self) -> int:
        return cache_bytes_per_token(self._models)

    def prepare(self, request: Generate) -> None:
        """Read the request's adapters ahead of `add`. For one thread, which may be another.

        Raises:
            FormatError: an adapter is broken.
        """
        self._adapters.prepare(request.adapters)

    def constrain(self, grammar: Grammar | None) -> Constraint | None:
        """What `add` wants for a grammar; None where there is none, or an optional one that cannot
        be used. For one thread, which may be another than steps.

        Raises:
            BadInput: the grammar cannot be used.
        """
        return None if grammar is None else self._grammars.constrain(grammar)

    def add(
        self,
        request: Generate,
        tokens: list[int],
        constraint: Constraint | None = None,
        images: tuple[PlacedImage, ...] = (),
    ) -> None:
        """Queue a request whose context and prompt are `tokens`.

        With images among them, neither the prompt nor the growing reply drops tokens.

        Args:
            constraint: the request's grammar, made by `constrain`.

        Raises:
            BadInput: nothing to go on from, a number that is no token, or a parameter out of range.
            PromptTooLong: it does not fit and may not be shortened.
            FormatError: the adapter is broken or does not fit.
        """
        check_request(request, tokens, self._vocab_size)
        sequence = self._sequence(request, tokens, images)
        num_truncated = len(tokens) - len(sequence.tokens)
        self._replies[request.id] = Reply.begin(
            request,
            sequence,
            self._tokenizer,
            constraint,
            Bias.of(request.logit_bias, self._device),
            num_truncated,
        )
        self._scheduler.add(sequence)

    def _sequence(
        self, request: Generate, tokens: list[int], images: tuple[PlacedImage, ...]
    ) -> Sequence:
        """The prompt, fitted to its window."""
        keep = len(tokens) if request.num_keep < 0 else request.num_keep
        keep += int(tokens[0] == self._special_tokens.bos_id)
        window = self.reader.window(request)
        shift = request.shift and not images
        fitted = fit_prompt(tokens, window, keep, may_cut=shift and request.truncate)
        check_echo(request, len(fitted))
        in_use = {sequence.adapter for sequence in self._scheduler}
        return Sequence(
            id=request.id,
            tokens=fitted,
            sampling=request.sampling,
            max_length=window,
            num_predict=request.num_predict,
            num_keep=keep,
            num_draft=request.num_draft,
            shift=shift,
            adapter=self._adapters.number(request.adapters, in_use),
            images=images,
            scores_prompt=request.echo and request.logprobs,
        )

    def warm_up(self) -> None:
        """Compute one token, so that the cache's tensors are made and the libraries are ready.

        Raises:
            OutOfMemory: there is no room for them.
        """
        probe = Sequence(id=0, tokens=[0], sampling=SamplingParams(), max_length=2)
        self._blocks.reserve(probe, 1)
        try:
            self._executor.forward([Scheduled(probe, 1)])
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemory(
                f"model requires more system memory for a cache of {self.num_cache_tokens} "
                "tokens than is available"
            ) from error
        finally:
            self._blocks.release(probe)

    def cancel(self, request_id: int) -> None:
        """Forget a request; one that is finished already is no error."""
        reply = self._replies.get(request_id)
        if reply is not None:
            self._remove(reply)

    def step(self) -> list[FromRunner]:
        """One forward pass; the messages that came of it.

        When memory runs out, the longest sequence is given up and the rest tried again.
        """
        failures: list[FromRunner] = []
        while True:
            try:
                return failures + self._step()
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
            # Only now is the error gone, and with it the tensors of the frames that it held.
            release_unused()
            failures.append(self._give_up_longest())

    def _give_up_longest(self) -> Failed:
        running = [sequence for sequence in self._scheduler if sequence.block_table]
        for sequence in running:  # a token may have been computed, and none sampled after it
            sequence.num_computed = min(sequence.num_computed, len(sequence.tokens) - 1)
        longest = max(running, key=lambda sequence: len(sequence.tokens))
        self.cancel(longest.id)
        return Failed(
            longest.id,
            FailureKind.OUT_OF_MEMORY,
            f"the model ran out of memory at {len(longest.tokens)} tokens; "
            "use a smaller num_ctx or OLLA_KV_CACHE",
        )

    def _step(self) -> list[FromRunner]:
        with self._profile.stage("merge"):
            self._merging.before_step(self._scheduler)
        with self._profile.stage("schedule"):
            scheduled = self._scheduler.schedule()
        if not scheduled:
            return []
        now = time.monotonic_ns()
        for item in scheduled:
            reply = self._replies[item.sequence.id]
            reply.started_ns = reply.started_ns or now
        if self._speculator is not None:
            with self._profile.stage("draft"):
                scheduled = self._speculator.extend(scheduled, self._replies)
        return self._compute(scheduled)

    def _compute(self, scheduled: list[Scheduled]) -> list[FromRunner]:
        started = time.perf_counter()
        is_decoding = all(item.is_decode for item in scheduled)
        grown = [item for item in scheduled if item.reaches_end]
        logits = self._executor.forward(scheduled)
        if self._base_vocab_size < self._vocab_size:
            self._hide_added_tokens(logits, scheduled)
        if any(item.sequence.scores_prompt for item in scheduled):
            logits = self._score_prompts(logits, scheduled)
        self._scheduler.committed(scheduled)
        verified = self._verify(grown, logits) if grown else []
        messages = self._go_on(grown, verified)
        if self._speculator is not None and is_decoding:
            self._speculator.note_step(scheduled, time.perf_counter() - started)
        self._profile.end_step(
            sum(item.num_tokens for item in scheduled),
            is_last=not self.has_work,
            drafted=sum(len(item.draft) for item in scheduled),
            accepted=sum(found.num_accepted for found in verified),
        )
        return messages

    @torch.inference_mode()
    def _hide_added_tokens(self, logits: Tensor, scheduled: Iterable[Scheduled]) -> None:
        """Without the adapter that brings them, tokens beyond the base's are never next."""
        end = 0
        for item in scheduled:
            start, end = end, end + item.num_logits
            if item.sequence.adapter == NO_ADAPTER:
                logits[start:end, self._base_vocab_size :] = -torch.inf

    def _score_prompts(self, logits: Tensor, scheduled: Iterable[Scheduled]) -> Tensor:
        """Give prompts that are to be scored their logprobs; the logits to sample from remain."""
        last_rows, end = [], 0
        for item in scheduled:
            start, end = end, end + item.num_logits
            if item.reaches_end:
                last_rows.append(end - 1)
            if item.sequence.scores_prompt:
                self._score_prompt(logits[start:end], item)
        return logits[last_rows]

    def _score_prompt(self, logits: Tensor, item: Scheduled) -> None:
        sequence, first = item.sequence, item.sequence.num_computed
        reply = self._replies[sequence.id]
        # The prompt's last token has no successor in it.
        targets = sequence.tokens[first + 1 : first + 1 + item.num_tokens]
        rows, num_top = logits[: len(targets)], reply.request.top_logprobs
        reply.score_prompt(first, score(rows, targets, num_top, self._token_bytes))
        sequence.scores_prompt = not item.reaches_end

    def _verify(self, grown: list[Scheduled], logits: Tensor) -> list[Verified]:
        """Draw a token for each reply, and keep those of its draft that are drawn just the same.

        `logits` (num_rows, vocab_size) are overwritten: a row for each item's last token, and one
        for each token of its draft.
        """
        replies = [self._replies[item.sequence.id] for item in grown]
        drafts = [item.draft for item in grown]
        with self._profile.stage("sample"):
            return verify(logits, replies, drafts, self._vocab_size, self._token_bytes)

    def _go_on(self, grown: list[Scheduled], verified: list[Verified]) -> list[FromRunner]:
        """Add what was drawn to each reply."""
        messages: list[FromRunner] = []
        with self._profile.stage("messages"):
            for item, found in zip(grown, verified, strict=True):
                reply = self._replies[item.sequence.id]
                if self._speculator is not None:
                    self._speculator.note(reply.sequence, found.num_accepted, found.num_tested)
                messages += self._accept_all(reply, found)
        return messages

    def _accept_all(self, reply: Reply, found: Verified) -> list[FromRunner]:
        """Add verified tokens to their reply, which may end before the last of them."""
        sequence = reply.sequence
        messages: list[FromRunner] = []
        for number, (token, logprob) in enumerate(zip(found.tokens, found.logprobs, strict=True)):
            messages += self._accept(reply, token, logprob)
            if sequence.state is SequenceState.FINISHED:
                break
            # Its place in the cache was filled by the same step that verified it.
            sequence.num_computed += int(number < found.num_accepted)
        return messages

    def _accept(self, reply: Reply, token: int, logprob: TokenLogprob | None) -> list[FromRunner]:
        """Add a sampled token to its reply; the reply may end with it."""
        sequence = reply.sequence
        reply.first_token_ns = reply.first_token_ns or time.monotonic_ns()
        messages: list[FromRunner] = [*reply.begin_text(self._token_bytes)]
        if sequence.has_predicted_enough:
            return messages + self._finish(reply, DoneReason.LENGTH)
        if reply.failure is not None:
            return messages + self._fail(reply, reply.failure)
        if token in self._special_tokens.end_ids:
            sequence.num_generated += 1
            return messages + self._finish(reply, DoneReason.STOP)
        sequence.append(token)
        try:
            messages += reply.push(token, logprob)
        except NoTokenAllowed as error:
            return messages + self._fail(reply, error)
        if reply.ending is not None:
            return messages + self._finish(reply, reply.ending)
        if sequence.is_full:
            self._scheduler.shift(sequence)
        return messages

    def _finish(self, reply: Reply, reason: DoneReason) -> list[FromRunner]:
        self._remove(reply)
        return [*reply.finish(reason)]

    def _fail(self, reply: Reply, error: RunnerError) -> list[FromRunner]:
        self._remove(reply)
        return [Failed(reply.sequence.id, FailureKind.RUNNER, str(error))]

    def _remove(self, reply: Reply) -> None:
        self._replies.pop(reply.sequence.id, None)
        self._scheduler.remove(reply.sequence)
        if self._speculator is not None:
            self._speculator.forget(reply.sequence)


def cache_bytes_per_token(models: Iterable[LoadedModel]) -> int:
    """What a token's keys and values take, in the caches of all."""
    return sum(model.network.cache_bytes_per_token for model in models)
