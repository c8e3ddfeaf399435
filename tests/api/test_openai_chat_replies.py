"""Chat completions as JSON, whole and in events."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

import pytest

from olla.api.openai_chat_replies import ChatReply
from olla.messages import ToolCall
from olla.requests import ChatChunk, DoneReason, Timings, TokenLogprob

STOP = ChatChunk(
    done_reason=DoneReason.STOP,
    timings=Timings(num_prompt_tokens=5, num_tokens=3, num_cached_tokens=4, num_thinking_tokens=2),
)
LENGTH = ChatChunk(done_reason=DoneReason.LENGTH)
CALL = ToolCall("f", {"b": 1, "a": "ä"}, "c1")
EURO = TokenLogprob("€", "€".encode(), -0.5, (TokenLogprob("x", b"x", float("-inf")),))
EURO_JSON = {
    "token": "€",
    "logprob": -0.5,
    "bytes": [226, 130, 172],
    "top_logprobs": [{"token": "x", "logprob": -9999.0, "bytes": [120]}],
}
USAGE = {
    "prompt_tokens": 5,
    "completion_tokens": 3,
    "total_tokens": 8,
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 2},
}


def _events(
    *chunks: ChatChunk | tuple[int, ChatChunk], reply: ChatReply | None = None
) -> list[dict[str, Any]]:
    """All events but the last, which is `[DONE]`."""
    reply = reply or ChatReply("m")
    numbered = [item if isinstance(item, tuple) else (0, item) for item in chunks]
    events = [event for item in numbered for event in reply.push(*item)]
    *rest, last = [*events, *reply.finish()]
    assert last == b"data: [DONE]\n\n"
    return [json.loads(event.removeprefix(b"data: ")) for event in rest]


def _choices(events: Iterable[dict[str, Any]]) -> list[tuple[Any, Any]]:
    return [
        (choice["delta"], choice["finish_reason"])
        for event in events
        for choice in event["choices"]
    ]


def test_a_whole_reply() -> None:
    reply = ChatReply("M").whole({0: [ChatChunk("Hel"), ChatChunk("lo"), STOP]})

    assert re.fullmatch(r"chatcmpl-\d+", reply.pop("id"))
    assert isinstance(reply.pop("created"), int)
    assert reply == {
        "object": "chat.completion",
        "model": "M",
        "system_fingerprint": "fp_ollama",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello"},
                "finish_reason": "stop",
            }
        ],
        "usage": USAGE,
    }


def test_a_whole_reply_with_thinking_calls_and_logprobs() -> None:
    chunks = [ChatChunk(thinking="hm"), ChatChunk(tool_calls=(CALL,), logprobs=(EURO,)), STOP]

    (choice,) = ChatReply("m").whole({0: chunks})["choices"]

    assert choice == {
        "index": 0,
        "message": {
            "role": "assistant",
            "content": "",
            "reasoning": "hm",
            "tool_calls": [
                {
                    "id": "c1",
                    "index": 0,
                    "type": "function",
                    "function": {"name": "f", "arguments": '{"b":1,"a":"ä"}'},
                }
            ],
        },
        "finish_reason": "tool_calls",
        "logprobs": {"content": [EURO_JSON]},
    }


def test_a_prompt_that_was_only_rendered() -> None:
    reply = ChatReply("m").whole({0: [ChatChunk(rendered_prompt="<p>")]})

    assert reply["_debug_info"] == {"rendered_template": "<p>"}
    assert reply["choices"][0]["finish_reason"] is None


def test_a_cut_reply_with_calls_says_that_it_was_cut() -> None:
    reply = ChatReply("m").whole({0: [ChatChunk(tool_calls=(CALL,)), LENGTH]})

    assert reply["choices"][0]["finish_reason"] == "length"


def test_a_call_without_an_id_gets_one() -> None:
    chunks = [ChatChunk(tool_calls=(ToolCall("f"), ToolCall("f"))), STOP]

    (choice,) = ChatReply("m").whole({0: chunks})["choices"]

    ids = {call["id"] for call in choice["message"]["tool_calls"]}
    assert len(ids) == 2 and all(re.fullmatch("call_[0-9a-f]{24}", text) for text in ids)


def test_the_events_of_a_stream_have_one_head() -> None:
    events = _events(ChatChunk("Hel"), ChatChunk("lo"), STOP)

    assert len({(event["id"], event["created"]) for event in events}) == 1
    assert {event["object"] for event in events} == {"chat.completion.chunk"}
    assert {event["model"] for event in events} == {"m"}
    assert not any("usage" in event for event in events)


def test_no_two_replies_have_one_id() -> None:
    assert len({ChatReply("m").whole({0: [STOP]})["id"] for _ in range(20)}) == 20


@pytest.mark.parametrize(
    ("chunks", "choices"),
    [
        (
            [ChatChunk("Hel"), ChatChunk("lo"), STOP],
            [
                ({"role": "assistant", "content": "Hel"}, None),
                ({"content": "lo"}, None),
                ({}, "stop"),
            ],
        ),
        ([STOP], [({"role": "assistant", "content": ""}, None), ({}, "stop")]),
        (
            [ChatChunk(thinking="hm", content="Hi"), LENGTH],
            [
                ({"role": "assistant", "reasoning": "hm"}, None),
                ({"content": "Hi"}, None),
                ({}, "length"),
            ],
        ),
        (
            [ChatChunk(thinking="hm"), ChatChunk("Hi", done_reason=DoneReason.STOP)],
            [
                ({"role": "assistant", "reasoning": "hm"}, None),
                ({"content": "Hi"}, None),
                ({}, "stop"),
            ],
        ),
    ],
    ids=["text", "nothing", "both", "last words"],
)
def test_the_choices_of_a_stream(chunks: list[ChatChunk], choices: list[Any]) -> None:
    assert _choices(_events(*chunks)) == choices


def test_calls_are_numbered_through_a_stream() -> None:
    events = _events(
        ChatChunk(thinking="hm", tool_calls=(CALL,)), ChatChunk(tool_calls=(CALL, CALL)), STOP
    )

    deltas = [delta for delta, _ in _choices(events)]
    calls = [call for delta in deltas for call in delta.get("tool_calls", [])]
    assert [call["index"] for call in calls] == [0, 1, 2]
    assert deltas[1]["content"] == ""
    assert _choices(events)[-1] == ({}, "tool_calls")


def test_logprobs_go_with_the_first_event_of_a_chunk() -> None:
    events = _events(
        ChatChunk("a", "hm", logprobs=(EURO,)),
        ChatChunk(logprobs=(EURO,)),
        ChatChunk(done_reason=DoneReason.STOP, logprobs=(EURO,)),
    )

    found = [event["choices"][0].get("logprobs") for event in events]
    assert found == [{"content": [EURO_JSON]}, None, *[{"content": [EURO_JSON]}] * 2, None]


def test_usage_is_an_event_of_its_own_without_choices() -> None:
    *events, last = _events(ChatChunk("a"), STOP, reply=ChatReply("m", include_usage=True))

    assert last["choices"] == []
    assert last["usage"] == USAGE
    assert not any("usage" in event for event in events)


def test_choices_are_told_apart() -> None:
    reply = ChatReply("m", num_choices=2, include_usage=True)
    call = ChatChunk(tool_calls=(CALL,))

    *events, last = _events((0, call), (1, ChatChunk("b")), (1, STOP), (0, STOP), reply=reply)

    found = [(event["choices"][0]["index"], *_choices([event])[0]) for event in events]
    assert [(index, delta.get("role"), reason) for index, delta, reason in found] == [
        (0, "assistant", None),
        (1, "assistant", None),
        (1, None, "stop"),
        (0, None, "tool_calls"),
    ]
    assert last["usage"]["prompt_tokens"] == 5  # both have the same one
    assert last["usage"]["completion_tokens"] == 6


def test_whole_choices_come_in_order() -> None:
    reply = ChatReply("m", num_choices=2).whole({1: [ChatChunk("b"), STOP], 0: [STOP]})

    assert [choice["index"] for choice in reply["choices"]] == [0, 1]
    assert [choice["message"]["content"] for choice in reply["choices"]] == ["", "b"]
