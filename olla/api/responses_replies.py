"""OpenAI's responses: chunks -> a response object, whole or as events (spec/openai-anthropic.md 6).

Pure. Text next to calls is kept, a reply that is cut off is "incomplete", and one that fails in
mid-stream ends with `response.failed`. `encrypted_content` is the thinking as it is: it is taken
back from replayed items.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from olla.api.blocks import Block, BlockKind, BlockWriter, Move, Step
from olla.api.openai_replies import finite
from olla.requests import ChatChunk, DoneReason, Timings, TokenLogprob

Json = dict[str, Any]

ID_PREFIX = "resp_"

_IN_PROGRESS, _COMPLETED, _INCOMPLETE = "in_progress", "completed", "incomplete"


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """What a response has from its request. Times are seconds since the epoch.

    `namespaces`: namespace and name of the functions that have one, by the name the model uses.
    """

    id: str
    model: str
    created_at: int
    echo: Mapping[str, Any]
    namespaces: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def suffix(self) -> str:
        """What the ids of its items are made of."""
        return self.id.removeprefix(ID_PREFIX)


def response_to_json(chunks: Iterable[ChatChunk], head: ResponseHead, completed_at: int) -> Json:
    events = ResponseEvents(head)
    for chunk in chunks:
        _ = list(events.push(chunk))
    return list(events.finish(completed_at))[-1]["response"]  # type: ignore[no-any-return]


class ResponseEvents:
    """The events of a streamed response, in order: `start`, `push` for each chunk, then
    `finish`, or `fail` at any time."""

    def __init__(self, head: ResponseHead) -> None:
        self._head = head
        self._writer = BlockWriter()
        self._last = ChatChunk()
        self._num_events = 0

    def start(self) -> Iterator[Json]:
        response = _response(self._head, _IN_PROGRESS, ())
        yield self._event("response.created", response=response)
        yield self._event("response.in_progress", response=response)

    def push(self, chunk: ChatChunk) -> Iterator[Json]:
        self._last = chunk
        for move in self._writer.push(chunk):
            yield from self._moved(move)

    def finish(self, completed_at: int) -> Iterator[Json]:
        """The last event carries the whole response."""
        status = _INCOMPLETE if self._last.done_reason is DoneReason.LENGTH else _COMPLETED
        for move in self._writer.finish():
            yield from self._moved(move, status)
        is_whole = status == _COMPLETED
        response = {
            **_response(self._head, status, self._output(status)),
            "completed_at": completed_at if is_whole else None,
            "incomplete_details": None if is_whole else {"reason": "max_output_tokens"},
            "usage": _usage(self._last.timings),
        }
        yield self._event(f"response.{status}", response=response)

    def fail(self, text: str) -> Json:
        error = {"code": "server_error", "message": text}
        response = _response(self._head, "failed", self._output(_COMPLETED))
        return self._event("response.failed", response={**response, "error": error})

    def _output(self, last_status: str) -> list[Json]:
        """The items that have ended; a cut falls into the last one."""
        blocks = self._writer.blocks
        last = len(blocks) - 1
        return [
            _item(self._head, index, block, last_status if index == last else _COMPLETED)
            for index, block in enumerate(blocks)
        ]

    def _moved(self, move: Move, status: str = _COMPLETED) -> Iterator[Json]:
        place = {"output_index": move.index}
        if move.step is Step.START:
            item = _started(self._head, move)
            yield self._event("response.output_item.added", **place, item=item)
        for name, values in _PARTS[move.block.kind](move):
            item_id = _item_id(self._head, move.index, move.block)
            yield self._event(name, item_id=item_id, **place, **values)
        if move.step is Step.END:
            item = _item(self._head, move.index, move.block, status)
            yield self._event("response.output_item.done", **place, item=item)

    def _event(self, name: str, **values: Any) -> Json:
        number = self._num_events
        self._num_events += 1
        return {"type": name, "sequence_number": number, **values}


Part = tuple[str, Json]
"""The name of an event inside an item, and what is its own in it."""


def _thinking_parts(move: Move) -> Iterator[Part]:
    place, name = {"summary_index": 0}, "response.reasoning_summary"
    text = move.block.text
    if move.step is Step.START:
        yield f"{name}_part.added", {**place, "part": _summary("")}
    elif move.step is Step.DELTA:
        yield f"{name}_text.delta", {**place, "delta": text}
    else:
        yield f"{name}_text.done", {**place, "text": text}
        yield f"{name}_part.done", {**place, "part": _summary(text)}


def _text_parts(move: Move) -> Iterator[Part]:
    place, block = {"content_index": 0}, move.block
    logprobs = _logprobs(block.logprobs)
    if move.step is Step.START:
        yield "response.content_part.added", {**place, "part": _output_text(block)}
    elif move.step is Step.DELTA:
        delta = {"delta": block.text, "logprobs": logprobs}
        yield "response.output_text.delta", {**place, **delta}
    else:
        text = {"text": block.text, "logprobs": logprobs}
        yield "response.output_text.done", {**place, **text}
        yield "response.content_part.done", {**place, "part": _output_text(block)}


def _call_parts(move: Move) -> Iterator[Part]:
    if move.step is Step.DELTA:
        yield "response.function_call_arguments.delta", {"delta": _arguments(move.block)}
    elif move.step is Step.END:
        yield "response.function_call_arguments.done", {"arguments": _arguments(move.block)}


_PARTS = {
    BlockKind.THINKING: _thinking_parts,
    BlockKind.TEXT: _text_parts,
    BlockKind.CALL: _call_parts,
}
_ID_PREFIXES = {BlockKind.THINKING: "rs_", BlockKind.TEXT: "msg_", BlockKind.CALL: "fc_"}


def _response(head: ResponseHead, status: str, output: Sequence[Json]) -> Json:
    """Its fields are always all there; null is what is not known yet, or never."""
    return {
        "id": head.id,
        "object": "response",
        "created_at": head.created_at,
        "completed_at": None,
        "status": status,
        "incomplete_details": None,
        "model": head.model,
        "output": output,
        "error": None,
        "usage": None,
        "presence_penalty": 0,
        "frequency_penalty": 0,
        "service_tier": "default",
        **head.echo,
    }


def _item_id(head: ResponseHead, index: int, block: Block) -> str:
    return f"{_ID_PREFIXES[block.kind]}{head.suffix}_{index}"


def _item(head: ResponseHead, index: int, block: Block, status: str) -> Json:
    item_id = {"id": _item_id(head, index, block)}
    if block.kind is BlockKind.THINKING:
        summary = [_summary(block.text)]
        return {
            **item_id,
            "type": "reasoning",
            "summary": summary,
            "encrypted_content": block.text,
        }
    if block.kind is BlockKind.TEXT:
        said = {"role": "assistant", "content": [_output_text(block)]}
        return {**item_id, "type": "message", "status": status, **said}
    return {**item_id, "type": "function_call", "status": status, **_call(head, index, block)}


def _started(head: ResponseHead, move: Move) -> Json:
    item = _item(head, move.index, move.block, _IN_PROGRESS)
    if move.block.kind is BlockKind.THINKING:
        return {"id": item["id"], "type": "reasoning", "summary": []}
    if move.block.kind is BlockKind.TEXT:
        return {**item, "content": []}
    return {**item, "arguments": ""}


def _call(head: ResponseHead, index: int, block: Block) -> Json:
    call = block.call
    namespace, name = head.namespaces.get(call.name, ("", call.name))
    return {
        "call_id": call.id or f"call_{head.suffix}_{index}",
        **({"namespace": namespace} if namespace else {}),
        "name": name,
        "arguments": _arguments(block),
    }


def _arguments(block: Block) -> str:
    return msgspec.json.encode(block.call.arguments).decode()


def _summary(text: str) -> Json:
    return {"type": "summary_text", "text": text}


def _output_text(block: Block) -> Json:
    logprobs = _logprobs(block.logprobs)
    return {"type": "output_text", "text": block.text, "annotations": [], "logprobs": logprobs}


def _logprobs(tokens: Iterable[TokenLogprob]) -> list[Json]:
    return [{**_logprob(token), "top_logprobs": list(map(_logprob, token.top))} for token in tokens]


def _logprob(token: TokenLogprob) -> Json:
    return {"token": token.text, "bytes": list(token.raw), "logprob": finite(token.logprob or 0.0)}


def _usage(timings: Timings) -> Json:
    return {
        "input_tokens": timings.num_prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": timings.num_cached_tokens,
            "cache_write_tokens": 0,
        },
        "output_tokens": timings.num_tokens,
        "output_tokens_details": {"reasoning_tokens": timings.num_thinking_tokens},
        "total_tokens": timings.num_prompt_tokens + timings.num_tokens,
    }
