"""Blocks: the chunks of a reply as thinking, text and calls, one after the other.

What Anthropic's content blocks and the items of OpenAI's responses are both written from. Knows no
JSON. Blocks never overlap: one ends before the next starts, and none starts again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from olla.messages import ToolCall
from olla.requests import ChatChunk, TokenLogprob

_NO_CALL = ToolCall("")


class BlockKind(StrEnum):
    THINKING = "thinking"
    TEXT = "text"
    CALL = "call"


@dataclass(frozen=True, slots=True)
class Block:
    """`text` and `logprobs` are empty in a call, `call` means nothing in the others."""

    kind: BlockKind
    text: str = ""
    logprobs: tuple[TokenLogprob, ...] = ()
    call: ToolCall = _NO_CALL


class Step(StrEnum):
    START = "start"
    DELTA = "delta"
    END = "end"


@dataclass(frozen=True, slots=True)
class Move:
    """What happens to the block at `index`.

    `block` has no text at its start, what is new in a delta, and all of it at the end. A call is
    whole in each.
    """

    step: Step
    index: int
    block: Block


class BlockWriter:
    """`blocks` are those that have ended."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self._open: BlockKind | None = None
        self._texts: list[str] = []
        self._logprobs: list[TokenLogprob] = []
        self._waiting: tuple[TokenLogprob, ...] = ()

    def push(self, chunk: ChatChunk) -> Iterator[Move]:
        """Logprobs of thinking go nowhere; those that come before their text wait for it."""
        if chunk.thinking:
            yield from self._write(Block(BlockKind.THINKING, chunk.thinking))
        else:
            self._waiting += chunk.logprobs
        if chunk.content:
            logprobs, self._waiting = self._waiting, ()
            yield from self._write(Block(BlockKind.TEXT, chunk.content, logprobs))
        for call in chunk.tool_calls:
            yield from self.finish()
            yield from self._write_call(Block(BlockKind.CALL, call=call))

    def finish(self) -> Iterator[Move]:
        """End the block that is open, if one is."""
        if self._open is None:
            return
        block = Block(self._open, "".join(self._texts), tuple(self._logprobs))
        self._open, self._texts, self._logprobs = None, [], []
        yield self._end(block)

    def _write(self, piece: Block) -> Iterator[Move]:
        if piece.kind is not self._open:
            yield from self.finish()
            self._open = piece.kind
            yield Move(Step.START, len(self.blocks), Block(piece.kind))
        self._texts.append(piece.text)
        self._logprobs += piece.logprobs
        yield Move(Step.DELTA, len(self.blocks), piece)

    def _write_call(self, block: Block) -> Iterator[Move]:
        yield Move(Step.START, len(self.blocks), block)
        yield Move(Step.DELTA, len(self.blocks), block)
        yield self._end(block)

    def _end(self, block: Block) -> Move:
        self.blocks.append(block)
        return Move(Step.END, len(self.blocks) - 1, block)
