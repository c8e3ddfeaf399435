"""A reply on its way from the runner: pieces of text become chunks, by way of a parser.

Knows nothing about models, prompts or JSON. Tokens count as thinking when the next text that the
parser shows after them is thinking, so the tags around it count too.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass, replace

from olla.errors import RunnerDied
from olla.messages import ToolCall
from olla.parsers.base import Delta, OutputParser
from olla.requests import ChatChunk, DoneReason, Timings, TokenLogprob
from olla.runner.process import Runner
from olla.runner.protocol import Finished, Generate, Piece


@dataclass(frozen=True, slots=True)
class Asked:
    """What the chunks depend on beyond the runner's words.

    `started_ns`: when the request came, on the monotonic clock. `num_dropped_tokens`: left out
    before the prompt went to the runner. `calls_come_last`: in the last chunk, as on generate.
    """

    started_ns: int
    load_ns: int
    num_dropped_tokens: int = 0
    calls_come_last: bool = False


async def chunks_of(
    runner: Runner, message: Generate, parser: OutputParser, asked: Asked
) -> AsyncGenerator[ChatChunk, None]:
    """Run the message and give the reply as it comes.

    Raises:
        RunnerError: the runner refuses, or dies.
    """
    reply = _Reply(parser, asked, has_prompt=message.echo)
    has_begun = False
    try:
        async with aclosing(runner.generate(message)) as items:
            async for item in items:
                has_begun = True
                for chunk in reply.finish(item) if isinstance(item, Finished) else reply.push(item):
                    yield chunk
    except RunnerDied as error:
        raise RunnerDied(in_mid_reply=has_begun) from error


class _Reply:
    def __init__(self, parser: OutputParser, asked: Asked, *, has_prompt: bool) -> None:
        """`has_prompt`: the first piece is the prompt, which is nobody's reply to parse."""
        self._parser = parser
        self._asked = asked
        self._is_at_prompt = has_prompt
        self._calls: list[ToolCall] = []
        self._num_pending = 0
        self._num_thinking = 0

    def push(self, piece: Piece) -> tuple[ChatChunk, ...]:
        if self._is_at_prompt:
            self._is_at_prompt = False
            return (ChatChunk(content=piece.text, logprobs=tuple(piece.logprobs)),)
        self._num_pending += len(piece.logprobs) or bool(piece.text)
        delta = self._shown(self._parser.push(piece.text))
        return (_chunk(delta, tuple(piece.logprobs)),) if delta or piece.logprobs else ()

    def finish(self, finished: Finished) -> Iterator[ChatChunk]:
        delta = self._shown(self._parser.finish())
        if delta:
            yield _chunk(delta)
        yield ChatChunk(
            tool_calls=tuple(self._calls),
            done_reason=DoneReason(finished.reason),
            timings=self._timings(finished),
            context=tuple(finished.context),
            stop_sequence=finished.stop_sequence,
        )

    def _shown(self, delta: Delta) -> Delta:
        """What the client is shown of it now."""
        if delta.thinking:
            self._num_thinking += self._num_pending
        if delta:
            self._num_pending = 0
        if delta.tool_calls and self._asked.calls_come_last:
            self._calls += delta.tool_calls
            return replace(delta, tool_calls=())
        return delta

    def _timings(self, finished: Finished) -> Timings:
        asked = self._asked
        return Timings(
            total_ns=time.monotonic_ns() - asked.started_ns,
            load_ns=asked.load_ns,
            num_prompt_tokens=finished.num_prompt_tokens,
            prompt_ns=finished.prompt_ns,
            num_tokens=finished.num_tokens,
            generation_ns=finished.generation_ns,
            num_cached_tokens=finished.num_cached_tokens,
            num_truncated_tokens=asked.num_dropped_tokens + finished.num_truncated_tokens,
            num_thinking_tokens=min(self._num_thinking, finished.num_tokens),
            num_drafted_tokens=finished.num_drafted_tokens,
            num_accepted_tokens=finished.num_accepted_tokens,
        )


def _chunk(delta: Delta, logprobs: tuple[TokenLogprob, ...] = ()) -> ChatChunk:
    return ChatChunk(delta.content, delta.thinking, delta.tool_calls, logprobs=logprobs)
