"""Chunks become a message or its events; the official client reads both as the same message."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import Message, RawMessageStreamEvent
from pydantic import TypeAdapter

from olla.api.anthropic_replies import MessageEvents, MessageHead, count_to_json, message_to_json
from olla.messages import ToolCall
from olla.requests import ChatChunk, DoneReason, Timings

HEAD = MessageHead("msg_ab", "m", stop_sequences=("END",))
TIMINGS = Timings(num_prompt_tokens=10, num_cached_tokens=4, num_tokens=7, num_thinking_tokens=3)
STOP = ChatChunk(done_reason=DoneReason.STOP, timings=TIMINGS)
REPLY = [
    ChatChunk(thinking="I w"),
    ChatChunk(thinking="onder"),
    ChatChunk(content="Let "),
    ChatChunk(content="me see", tool_calls=(ToolCall("f", {"b": 1, "a": "é"}, "t1"),)),
    ChatChunk(tool_calls=(ToolCall("g"),)),
    STOP,
]
_EVENT: TypeAdapter[RawMessageStreamEvent] = TypeAdapter(RawMessageStreamEvent)


def _whole(*chunks: ChatChunk, head: MessageHead = HEAD) -> dict[str, Any]:
    return message_to_json(chunks, head)


def _events(chunks: Sequence[ChatChunk], head: MessageHead = HEAD) -> list[dict[str, Any]]:
    events = MessageEvents(head)
    pushed = [value for chunk in chunks for value in events.push(chunk)]
    return [events.start(12), *pushed, *events.finish()]


def _accumulated(events: list[dict[str, Any]]) -> Message:
    """What the official client makes of a stream."""
    buffers: dict[int, bytes] = {}
    snapshot: Any = None
    for event in events:
        snapshot = accumulate_event(
            event=_EVENT.validate_python(event), current_snapshot=snapshot, json_bufs=buffers
        )
    return Message.model_validate(snapshot.to_dict())


def test_a_whole_message_has_thinking_then_text_then_calls() -> None:
    message = _whole(*REPLY)

    assert message == {
        "id": "msg_ab",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [
            {"type": "thinking", "thinking": "I wonder", "signature": "sig_ab"},
            {"type": "text", "text": "Let me see"},
            {"type": "tool_use", "id": "t1", "name": "f", "input": {"b": 1, "a": "é"}},
            {"type": "tool_use", "id": "toolu_ab_3", "name": "g", "input": {}},
        ],
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 6,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 4,
            "output_tokens": 7,
            "output_tokens_details": {"thinking_tokens": 3},
        },
    }


def test_a_stream_says_what_the_whole_message_says() -> None:
    events = _events(REPLY)

    assert _accumulated(events) == Message.model_validate(_whole(*REPLY))
    assert events[0]["message"]["usage"]["input_tokens"] == 12


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_a_stream_cut_anywhere_is_the_same_message(size: int) -> None:
    thinking, text = "I wonder", "Let me see"
    chunks = [ChatChunk(thinking=thinking[i : i + size]) for i in range(0, len(thinking), size)]
    chunks += [ChatChunk(content=text[i : i + size]) for i in range(0, len(text), size)]

    cut = _accumulated(_events([*chunks, STOP]))

    whole = _whole(ChatChunk(thinking=thinking), ChatChunk(content=text), STOP)
    assert cut == Message.model_validate(whole)


def test_events_are_as_anthropics() -> None:
    events = _events([ChatChunk(thinking="a"), ChatChunk(content="b"), REPLY[4], STOP])

    kinds = [event["type"].removeprefix("content_block_") for event in events]
    assert kinds == [
        "message_start",
        *("start", "delta", "delta", "stop"),  # a signature is the last of a thinking block
        *("start", "delta", "stop"),
        *("start", "delta", "stop"),
        "message_delta",
        "message_stop",
    ]
    starts = [event["content_block"] for event in events if "content_block" in event]
    assert starts == [
        {"type": "thinking", "thinking": "", "signature": ""},
        {"type": "text", "text": ""},
        {"type": "tool_use", "id": "toolu_ab_2", "name": "g", "input": {}},
    ]
    assert [event["index"] for event in events[1:-2]] == [0] * 4 + [1] * 3 + [2] * 3
    assert events[9]["delta"] == {"type": "input_json_delta", "partial_json": "{}"}


@pytest.mark.parametrize(
    ("chunks", "reason", "stop"),
    [
        ([STOP], "end_turn", None),
        ([ChatChunk(done_reason=DoneReason.LENGTH)], "max_tokens", None),
        ([ChatChunk(done_reason=DoneReason.STOP, stop_sequence="END")], "stop_sequence", "END"),
        ([ChatChunk(done_reason=DoneReason.STOP, stop_sequence="</s>")], "end_turn", None),
        ([REPLY[4], STOP], "tool_use", None),
        ([REPLY[4], ChatChunk(done_reason=DoneReason.LENGTH)], "max_tokens", None),
    ],
)
def test_a_message_says_why_it_ended(
    chunks: list[ChatChunk], reason: str, stop: str | None
) -> None:
    whole, delta = _whole(*chunks), _events(chunks)[-2]["delta"]

    for end in (whole, delta):
        assert (end["stop_reason"], end["stop_sequence"]) == (reason, stop)


def test_a_message_that_says_nothing_has_no_blocks() -> None:
    assert _whole(STOP)["content"] == []
    assert [event["type"] for event in _events([STOP])] == [
        "message_start",
        "message_delta",
        "message_stop",
    ]


def test_thinking_that_is_not_to_be_shown_is_an_empty_block() -> None:
    head = MessageHead("msg_ab", "m", shows_thinking=False)

    whole = _whole(*REPLY, head=head)

    assert whole["content"][0] == {"type": "thinking", "thinking": "", "signature": "sig_ab"}
    assert _accumulated(_events(REPLY, head)) == Message.model_validate(whole)
    assert "wonder" not in str(_events(REPLY, head))


def test_a_count_is_one_number() -> None:
    assert count_to_json(5) == {"input_tokens": 5}
