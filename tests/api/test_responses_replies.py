"""Chunks become a response or its events; the official client reads both as the same response."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from openai import omit
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from olla.api.responses_replies import ResponseEvents, ResponseHead, response_to_json
from olla.messages import ToolCall
from olla.requests import ChatChunk, DoneReason, Timings, TokenLogprob

ECHO: dict[str, Any] = {
    "instructions": None,
    "tools": [],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "temperature": 1.0,
    "top_p": 1.0,
    "metadata": {},
}
HEAD = ResponseHead("resp_ab", "m", 100, ECHO, {"git.log": ("git", "log")})
TIMINGS = Timings(num_prompt_tokens=10, num_cached_tokens=4, num_tokens=7, num_thinking_tokens=3)
STOP = ChatChunk(done_reason=DoneReason.STOP, timings=TIMINGS)
CUT = ChatChunk(done_reason=DoneReason.LENGTH, timings=TIMINGS)
REPLY = [
    ChatChunk(thinking="I w"),
    ChatChunk(thinking="onder"),
    ChatChunk(content="Let "),
    ChatChunk(content="me see", tool_calls=(ToolCall("git.log", {"b": 1, "a": 2}, "c1"),)),
    ChatChunk(tool_calls=(ToolCall("g"),)),
    ChatChunk(content="So."),
    STOP,
]
_EVENT: TypeAdapter[ResponseStreamEvent] = TypeAdapter(ResponseStreamEvent)


def _whole(*chunks: ChatChunk) -> dict[str, Any]:
    return response_to_json(chunks, HEAD, 105)


def _events(chunks: Sequence[ChatChunk]) -> list[dict[str, Any]]:
    events = ResponseEvents(HEAD)
    started = list(events.start())
    pushed = [value for chunk in chunks for value in events.push(chunk)]
    return [*started, *pushed, *events.finish(105)]


def test_a_whole_response_has_its_items_in_the_order_they_came() -> None:
    response = _whole(*REPLY)

    assert response["output"] == [
        {
            "id": "rs_ab_0",
            "type": "reasoning",
            "summary": [{"type": "summary_text", "text": "I wonder"}],
            "encrypted_content": "I wonder",
        },
        _message("msg_ab_1", "Let me see"),
        {
            "id": "fc_ab_2",
            "type": "function_call",
            "status": "completed",
            "call_id": "c1",
            "namespace": "git",
            "name": "log",
            "arguments": '{"b":1,"a":2}',
        },
        {
            "id": "fc_ab_3",
            "type": "function_call",
            "status": "completed",
            "call_id": "call_ab_3",
            "name": "g",
            "arguments": "{}",
        },
        _message("msg_ab_4", "So."),
    ]


def _message(item_id: str, text: str) -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {
        "id": item_id,
        "type": "message",
        "status": "completed",
        "role": "assistant",
        "content": [part],
    }


def test_a_whole_response_says_how_it_went() -> None:
    response = _whole(*REPLY)

    assert {name: response[name] for name in ECHO} == ECHO
    assert (response["id"], response["object"], response["model"]) == ("resp_ab", "response", "m")
    assert (response["created_at"], response["completed_at"]) == (100, 105)
    assert (response["status"], response["error"]) == ("completed", None)
    assert response["incomplete_details"] is None
    assert response["usage"] == {
        "input_tokens": 10,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
        "output_tokens": 7,
        "output_tokens_details": {"reasoning_tokens": 3},
        "total_tokens": 17,
    }


def test_a_response_that_is_cut_off_is_incomplete() -> None:
    response = _whole(*REPLY[:-1], CUT)

    assert (response["status"], response["completed_at"]) == ("incomplete", None)
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert [item.get("status") for item in response["output"]] == [
        None,
        *["completed"] * 3,
        "incomplete",
    ]
    assert _events([*REPLY[:-1], CUT])[-1]["type"] == "response.incomplete"


def test_the_official_client_reads_every_event_and_the_whole_response() -> None:
    events = _events(REPLY)
    state: ResponseStreamState[Any] = ResponseStreamState(input_tools=omit, text_format=omit)
    for event in events:
        state.handle_event(_EVENT.validate_python(event))

    assert events[-1]["response"] == _whole(*REPLY)
    Response.model_validate(_whole(*REPLY))


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_a_stream_cut_anywhere_is_the_same_response(size: int) -> None:
    thinking, text = "I wonder", "Let me see"
    chunks = [ChatChunk(thinking=thinking[i : i + size]) for i in range(0, len(thinking), size)]
    chunks += [ChatChunk(content=text[i : i + size]) for i in range(0, len(text), size)]

    events = _events([*chunks, STOP])

    whole = _whole(ChatChunk(thinking=thinking), ChatChunk(content=text), STOP)
    assert events[-1]["response"] == whole
    deltas = "".join(event.get("delta", "") for event in events)
    assert deltas == thinking + text


def test_events_are_numbered_and_in_openais_order() -> None:
    events = _events([ChatChunk(thinking="a"), ChatChunk(content="b"), REPLY[4], STOP])

    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [event["type"].removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "reasoning_summary_part.added",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.done",
        "reasoning_summary_part.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    items = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert items == events[-1]["response"]["output"]
    added = [event["item"] for event in events if event["type"] == "response.output_item.added"]
    assert added == [
        {"id": "rs_ab_0", "type": "reasoning", "summary": []},
        {**items[1], "status": "in_progress", "content": []},
        {**items[2], "status": "in_progress", "arguments": ""},
    ]


def test_a_response_in_progress_has_no_output_yet() -> None:
    created = _events([STOP])[0]["response"]

    assert (created["status"], list(created["output"])) == ("in_progress", [])
    assert created["usage"] is created["completed_at"] is None


def test_a_response_that_says_nothing_has_no_items() -> None:
    assert _whole(STOP)["output"] == []


def test_a_failure_ends_the_stream_with_what_there_is() -> None:
    events = ResponseEvents(HEAD)
    pushed = [value for chunk in REPLY[:3] for value in events.push(chunk)]

    failed = events.fail("it broke")

    response = failed["response"]
    assert (failed["type"], failed["sequence_number"]) == ("response.failed", len(pushed))
    assert response["status"] == "failed"
    assert response["error"] == {"code": "server_error", "message": "it broke"}
    assert [item["type"] for item in response["output"]] == ["reasoning"]
    _EVENT.validate_python(failed)


def test_logprobs_are_in_deltas_and_in_the_whole_text() -> None:
    top = TokenLogprob("b", b"b", -2.0)
    token = TokenLogprob("é", "é".encode(), -0.5, (top,))
    expected = {
        "token": "é",
        "bytes": [195, 169],
        "logprob": -0.5,
        "top_logprobs": [{"token": "b", "bytes": [98], "logprob": -2.0}],
    }

    events = _events([ChatChunk(content="é", logprobs=(token,)), STOP])

    by_type = {event["type"].removeprefix("response."): event for event in events}
    assert by_type["output_text.delta"]["logprobs"] == [expected]
    assert by_type["output_text.done"]["logprobs"] == [expected]
    (item,) = by_type["completed"]["response"]["output"]
    assert item["content"][0]["logprobs"] == [expected]
