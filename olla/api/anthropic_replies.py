"""Anthropic's replies: chunks -> a message, whole or as events (spec/openai-anthropic.md 8.3, 8.4).

Pure. As with Anthropic, `input_tokens` are those that the cache did not have: the whole prompt is
`input_tokens` + `cache_read_input_tokens`. The signature that a thinking block carries says
nothing; it is there since clients want one, and is accepted back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from olla.api.blocks import Block, BlockKind, BlockWriter, Move, Step
from olla.requests import ChatChunk, DoneReason, Timings

Json = dict[str, Any]

ID_PREFIX = "msg_"


@dataclass(frozen=True, slots=True)
class MessageHead:
    """What a reply has from its request. `stop_sequences`: those that are the request's own."""

    id: str
    model: str
    stop_sequences: tuple[str, ...] = ()
    shows_thinking: bool = True


def message_to_json(chunks: Iterable[ChatChunk], head: MessageHead) -> Json:
    writer = BlockWriter()
    last = ChatChunk()
    for last in chunks:
        _ = list(writer.push(last))
    _ = list(writer.finish())
    blocks = enumerate(writer.blocks)
    return {
        **_message(head, content=[_content(head, index, block) for index, block in blocks]),
        **_end(last, head, writer.blocks),
        "usage": _usage(last.timings),
    }


def count_to_json(num_tokens: int) -> Json:
    return {"input_tokens": num_tokens}


class MessageEvents:
    """The events of a streamed reply, in order: `start`, `push` for each chunk, `finish`."""

    def __init__(self, head: MessageHead) -> None:
        self._head = head
        self._writer = BlockWriter()
        self._last = ChatChunk()

    def start(self, num_prompt_tokens: int) -> Json:
        """`num_prompt_tokens` may be an estimate; the end says how many there were."""
        usage = _usage(Timings(num_prompt_tokens=num_prompt_tokens))
        ends = {"stop_reason": None, "stop_sequence": None}
        message = {**_message(self._head, content=[]), **ends, "usage": usage}
        return {"type": "message_start", "message": message}

    def push(self, chunk: ChatChunk) -> Iterator[Json]:
        self._last = chunk
        for move in self._writer.push(chunk):
            yield from self._event(move)

    def finish(self) -> Iterator[Json]:
        for move in self._writer.finish():
            yield from self._event(move)
        yield {
            "type": "message_delta",
            "delta": _end(self._last, self._head, self._writer.blocks),
            "usage": _usage(self._last.timings),
        }
        yield {"type": "message_stop"}

    def _event(self, move: Move) -> Iterator[Json]:
        place = {"index": move.index}
        if move.step is Step.START:
            block = _empty(_content(self._head, move.index, move.block))
            yield {"type": "content_block_start", **place, "content_block": block}
        elif move.step is Step.DELTA:
            delta = self._delta(move.block)
            if delta:
                yield {"type": "content_block_delta", **place, "delta": delta}
        else:
            if move.block.kind is BlockKind.THINKING:
                signature = {"type": "signature_delta", "signature": _signature(self._head)}
                yield {"type": "content_block_delta", **place, "delta": signature}
            yield {"type": "content_block_stop", **place}

    def _delta(self, block: Block) -> Json | None:
        if block.kind is BlockKind.TEXT:
            return {"type": "text_delta", "text": block.text}
        if block.kind is BlockKind.CALL:
            arguments = msgspec.json.encode(block.call.arguments).decode()
            return {"type": "input_json_delta", "partial_json": arguments}
        if self._head.shows_thinking:
            return {"type": "thinking_delta", "thinking": block.text}
        return None


def _message(head: MessageHead, content: list[Json]) -> Json:
    return {
        "id": head.id,
        "type": "message",
        "role": "assistant",
        "model": head.model,
        "content": content,
    }


def _content(head: MessageHead, index: int, block: Block) -> Json:
    if block.kind is BlockKind.TEXT:
        return {"type": "text", "text": block.text}
    if block.kind is BlockKind.THINKING:
        thinking = block.text if head.shows_thinking else ""
        return {"type": "thinking", "thinking": thinking, "signature": _signature(head)}
    call = block.call
    call_id = call.id or f"toolu_{head.id.removeprefix(ID_PREFIX)}_{index}"
    return {"type": "tool_use", "id": call_id, "name": call.name, "input": call.arguments}


def _empty(content: Json) -> Json:
    """A block as it starts: the input and the signature come later."""
    if content["type"] == "tool_use":
        return {**content, "input": {}}
    return {**content, "signature": ""} if content["type"] == "thinking" else content


def _signature(head: MessageHead) -> str:
    return f"sig_{head.id.removeprefix(ID_PREFIX)}"


def _end(last: ChatChunk, head: MessageHead, blocks: Iterable[Block]) -> Json:
    """The first that is true: it was cut off, it calls tools, one of the request's stops came."""
    stop = last.stop_sequence if last.stop_sequence in head.stop_sequences else ""
    if last.done_reason is DoneReason.LENGTH:
        return {"stop_reason": "max_tokens", "stop_sequence": None}
    if any(block.kind is BlockKind.CALL for block in blocks):
        return {"stop_reason": "tool_use", "stop_sequence": None}
    return {"stop_reason": "stop_sequence" if stop else "end_turn", "stop_sequence": stop or None}


def _usage(timings: Timings) -> Json:
    return {
        "input_tokens": timings.num_prompt_tokens - timings.num_cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": timings.num_cached_tokens,
        "output_tokens": timings.num_tokens,
        "output_tokens_details": {"thinking_tokens": timings.num_thinking_tokens},
    }
