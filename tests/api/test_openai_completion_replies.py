"""Completions as JSON, whole and in events."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from olla.api.openai_completion_replies import CompletionReply, Offsets
from olla.requests import ChatChunk, DoneReason, Timings, TokenLogprob

STOP = ChatChunk(done_reason=DoneReason.STOP, timings=Timings(num_prompt_tokens=5, num_tokens=3))
ZERO = {
    "prompt_tokens": 0,
    "completion_tokens": 0,
    "total_tokens": 0,
    "prompt_tokens_details": {"cached_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 0},
}
FIRST = TokenLogprob("The", b"The", None)
SKY = TokenLogprob(" sky", b" sky", -1.0, (TokenLogprob(" sea", b" sea", -0.5),))
HALF = TokenLogprob("\N{REPLACEMENT CHARACTER}", b"\xe2", -2.0)
REST = TokenLogprob("\N{REPLACEMENT CHARACTER}", b"\x82\xac", float("-inf"))
END = TokenLogprob("!", b"!", -0.1, (TokenLogprob("!", b"!", -0.1),))
TOKENS = (FIRST, SKY, HALF, REST, END)
LOGPROBS = {
    "text_offset": [0, 3, 7, 7, 8],
    "token_logprobs": [None, -1.0, -2.0, -9999.0, -0.1],
    "tokens": ["The", " sky", r"bytes:\xe2", r"bytes:\x82\xac", "!"],
    "top_logprobs": [
        None,
        {" sea": -0.5, " sky": -1.0},
        {r"bytes:\xe2": -2.0},
        {r"bytes:\x82\xac": -9999.0},
        {"!": -0.1},
    ],
}


def _events(reply: CompletionReply, *chunks: ChatChunk) -> list[dict[str, Any]]:
    *events, last = [event for chunk in chunks for event in reply.push(0, chunk)] + [
        *reply.finish()
    ]
    assert last == b"data: [DONE]\n\n"
    return [json.loads(event.removeprefix(b"data: ")) for event in events]


def test_a_whole_reply() -> None:
    chunks = [ChatChunk(thinking="hm"), ChatChunk("Hel"), ChatChunk("lo"), STOP]

    reply = CompletionReply("M").whole({0: chunks})

    assert re.fullmatch(r"cmpl-\d+", reply.pop("id"))
    assert isinstance(reply.pop("created"), int)
    assert reply == {
        "object": "text_completion",
        "model": "M",
        "system_fingerprint": "fp_ollama",
        "choices": [{"text": "Hello", "index": 0, "finish_reason": "stop"}],
        "usage": ZERO | {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8},
    }


def test_every_chunk_is_an_event() -> None:
    events = _events(CompletionReply("m"), ChatChunk("Hel"), ChatChunk("lo"), STOP)

    assert [event["choices"] for event in events] == [
        [{"text": "Hel", "index": 0, "finish_reason": None}],
        [{"text": "lo", "index": 0, "finish_reason": None}],
        [{"text": "", "index": 0, "finish_reason": "stop"}],
    ]
    assert {event["object"] for event in events} == {"text_completion"}
    assert len({event["id"] for event in events}) == 1
    assert not any("usage" in event for event in events)


def test_usage_is_zero_until_the_end() -> None:
    reply = CompletionReply("m", include_usage=True)

    *events, last = _events(reply, ChatChunk("a"), STOP)

    assert [event["usage"] for event in events] == [ZERO, ZERO]
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == 8


def test_prompts_count_once_for_all_their_choices() -> None:
    reply = CompletionReply("m", num_choices=2).whole({index: [STOP] for index in range(4)})

    assert reply["usage"]["prompt_tokens"] == 10
    assert reply["usage"]["completion_tokens"] == 12


def test_a_model_that_was_only_loaded() -> None:
    reply = CompletionReply("m").whole({0: [ChatChunk(done_reason=DoneReason.LOAD)]})

    assert reply["choices"] == [{"text": "", "index": 0, "finish_reason": "load"}]


def test_logprobs_are_lists_side_by_side() -> None:
    (choice,) = CompletionReply("m").whole({0: [ChatChunk("x", logprobs=TOKENS), STOP]})["choices"]

    assert choice["logprobs"] == LOGPROBS


@pytest.mark.parametrize("cut", range(1, len(TOKENS)))
def test_where_a_stream_is_cut_does_not_matter(cut: int) -> None:
    chunks = [ChatChunk("x", logprobs=TOKENS[:cut]), ChatChunk("y", logprobs=TOKENS[cut:])]

    events = _events(CompletionReply("m"), *chunks)

    found = [event["choices"][0]["logprobs"] for event in events]
    assert {name: found[0][name] + found[1][name] for name in LOGPROBS} == LOGPROBS


def test_offsets_count_characters() -> None:
    offsets = Offsets()

    found = [offsets.push(raw) for raw in (b"a", "ä€".encode(), b"\xf0\x9f", b"\x98\x80", b"b")]

    assert found == [0, 1, 3, 3, 4]
