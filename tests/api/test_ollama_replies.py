"""Values are written as Ollama's JSON: which fields are there, and in which form."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from olla.api import ollama_replies as replies
from olla.api.ollama_replies import ModelDescription, ModelSummary
from olla.messages import Message, ToolCall
from olla.requests import ChatChunk, DoneReason, Progress, Timings, TokenLogprob

MODIFIED = datetime(2026, 8, 22, 10, 0, 0, 500_000, tzinfo=UTC)
SUMMARY = ModelSummary(
    name="m:latest",
    digest="ab" * 32,
    modified_at=MODIFIED,
    size_bytes=1234,
    format="gguf",
    family="llama",
    families=("llama",),
    parameter_size="1.2B",
    quantization_level="Q8_0",
    context_length=131072,
    embedding_length=2048,
    capabilities=("completion", "tools"),
)
DETAILS = {
    "parent_model": "",
    "format": "gguf",
    "family": "llama",
    "families": ["llama"],
    "parameter_size": "1.2B",
    "quantization_level": "Q8_0",
}
DESCRIPTION = ModelDescription(
    summary=SUMMARY,
    parent_model="base",
    modelfile="FROM x\n",
    template="",
    system="",
    licenses=(),
    parameters={},
    messages=(),
    requires="",
    info={},
    projector_info={},
    tensors=(),
)
LAST = ChatChunk(done_reason=DoneReason.LENGTH, timings=Timings(1, 2, 3, 4, 5, 6), context=(7, 8))
METRICS = {
    "total_duration": 1,
    "load_duration": 2,
    "prompt_eval_count": 3,
    "prompt_eval_duration": 4,
    "eval_count": 5,
    "eval_duration": 6,
}


def as_json(value: Any) -> dict[str, Any]:
    """The reply as a client reads it, without the time of writing."""
    reply: dict[str, Any] = json.loads(replies.encode(value))
    created_at = reply.pop("created_at", "2026-01-01T00:00:00Z")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{0,8}[1-9])?Z", created_at)
    return reply


def test_a_chunk_of_a_chat() -> None:
    assert as_json(replies.chat_to_json(ChatChunk(content="He"), "M")) == {
        "model": "M",
        "message": {"role": "assistant", "content": "He"},
        "done": False,
    }


def test_thinking_and_tool_calls_of_a_chat() -> None:
    chunk = ChatChunk(thinking="hm", tool_calls=(ToolCall("f", {"b": 1}, "c"), ToolCall("g")))

    assert as_json(replies.chat_to_json(chunk, "m"))["message"] == {
        "role": "assistant",
        "content": "",
        "thinking": "hm",
        "tool_calls": [
            {"id": "c", "function": {"index": 0, "name": "f", "arguments": {"b": 1}}},
            {"function": {"index": 1, "name": "g", "arguments": {}}},
        ],
    }


def test_the_last_chunk_of_a_chat_has_the_metrics() -> None:
    assert as_json(replies.chat_to_json(replace(LAST, context=()), "m")) == {
        "model": "m",
        "message": {"role": "assistant", "content": ""},
        "done": True,
        "done_reason": "length",
        **METRICS,
    }


def test_the_last_chunk_of_generate_has_the_context() -> None:
    assert as_json(replies.generate_to_json(LAST, "m")) == {
        "model": "m",
        "response": "",
        "done": True,
        "done_reason": "length",
        "context": [7, 8],
        **METRICS,
    }


def test_logprobs_stand_beside_the_text() -> None:
    other = TokenLogprob("Hi", b"Hi", -2.4)
    half = TokenLogprob("\ufffd", b"\xc3", -0.5)
    chunk = ChatChunk(logprobs=(TokenLogprob("He", b"He", -0.11, (other,)), half))

    reply = as_json(replies.generate_to_json(chunk, "m"))

    assert (reply["response"], reply["done"]) == ("", False)
    assert reply["logprobs"] == [
        {
            "token": "He",
            "logprob": -0.11,
            "bytes": [72, 101],
            "top_logprobs": [{"token": "Hi", "logprob": -2.4, "bytes": [72, 105]}],
        },
        {"token": "\ufffd", "logprob": -0.5, "bytes": [195]},
    ]
    assert as_json(replies.chat_to_json(chunk, "m"))["logprobs"] == reply["logprobs"]


def test_a_token_that_nothing_predicts_is_certain() -> None:
    chunk = ChatChunk(logprobs=(TokenLogprob("", b"", None),))

    assert as_json(replies.chat_to_json(chunk, "m"))["logprobs"] == [{"token": "", "logprob": 0.0}]


def test_cached_and_cut_tokens_are_counted_beside_the_others() -> None:
    timings = Timings(num_prompt_tokens=9, num_cached_tokens=4, num_truncated_tokens=7)
    chunk = ChatChunk(done_reason=DoneReason.STOP, timings=timings)

    assert as_json(replies.chat_to_json(chunk, "m")) == {
        "model": "m",
        "message": {"role": "assistant", "content": ""},
        "done": True,
        "done_reason": "stop",
        "prompt_eval_count": 9,
        "prompt_cache_count": 4,
        "prompt_truncated_count": 7,
    }


def test_drafted_tokens_are_counted_where_there_are_any() -> None:
    timings = Timings(num_tokens=9, num_drafted_tokens=6, num_accepted_tokens=5)
    chunk = ChatChunk(done_reason=DoneReason.STOP, timings=timings)

    counts = as_json(replies.chat_to_json(chunk, "m"))

    assert (counts["draft_count"], counts["draft_accepted_count"]) == (6, 5)


def test_calls_are_numbered_on_from_the_chunks_before() -> None:
    chunk = ChatChunk(tool_calls=(ToolCall("f"), ToolCall("g")))

    calls = as_json(replies.chat_to_json(chunk, "m", 3))["message"]["tool_calls"]

    assert [call["function"]["index"] for call in calls] == [3, 4]


def test_a_load_has_no_metrics() -> None:
    chunk = ChatChunk(done_reason=DoneReason.LOAD)

    assert as_json(replies.generate_to_json(chunk, "m")) == {
        "model": "m",
        "response": "",
        "done": True,
        "done_reason": "load",
    }


def test_a_rendered_prompt_is_debug_information() -> None:
    assert as_json(replies.generate_to_json(ChatChunk(rendered_prompt=""), "m")) == {
        "model": "m",
        "response": "",
        "done": False,
        "_debug_info": {"rendered_template": ""},
    }


def test_chunks_are_joined_with_the_rest_from_the_last() -> None:
    call, token = ToolCall("f"), TokenLogprob("a", b"a", -1.0)
    chunks = [
        ChatChunk(thinking="a", logprobs=(token,)),
        ChatChunk("b", "c"),
        ChatChunk("d", tool_calls=(call,), logprobs=(token,)),
        replace(LAST, stop_sequence="."),
    ]

    assert replies.join_chunks(chunks) == replace(
        LAST,
        content="bd",
        thinking="ac",
        tool_calls=(call,),
        logprobs=(token, token),
        stop_sequence=".",
    )


@pytest.mark.parametrize(
    ("progress", "expected"),
    [
        (Progress("success"), {"status": "success"}),
        (
            Progress("pulling 0", "sha256:0", 10, 0),
            {"status": "pulling 0", "digest": "sha256:0", "total": 10},
        ),
        (
            Progress("pulling 0", "sha256:0", 10, 10),
            {"status": "pulling 0", "digest": "sha256:0", "total": 10, "completed": 10},
        ),
    ],
)
def test_progress(progress: Progress, expected: dict[str, Any]) -> None:
    assert replies.progress_to_json(progress) == expected


def test_a_list_entry() -> None:
    (entry,) = as_json(replies.tags_to_json([SUMMARY]))["models"]

    assert datetime.fromisoformat(entry.pop("modified_at")) == MODIFIED
    assert entry == {
        "name": "m:latest",
        "model": "m:latest",
        "size": 1234,
        "digest": "ab" * 32,
        "details": {**DETAILS, "context_length": 131072, "embedding_length": 2048},
        "capabilities": ["completion", "tools"],
    }


def test_what_is_unknown_about_a_model_stays_away_from_the_list() -> None:
    bare = replace(SUMMARY, families=(), context_length=0, embedding_length=0, capabilities=())

    (entry,) = as_json(replies.tags_to_json([bare]))["models"]

    assert entry["details"] == {**DETAILS, "families": None}
    assert "capabilities" not in entry


def test_an_empty_list_is_a_list() -> None:
    assert as_json(replies.tags_to_json([])) == {"models": []}


def test_the_list_is_newest_first_by_whole_seconds() -> None:
    older = replace(SUMMARY, name="older", modified_at=MODIFIED - timedelta(seconds=1))
    same = replace(SUMMARY, name="same", modified_at=MODIFIED + timedelta(milliseconds=1))

    entries = replies.tags_to_json([older, SUMMARY, same])["models"]

    assert [entry["name"] for entry in entries] == ["m:latest", "same", "older"]


def test_a_loaded_model() -> None:
    entry = as_json(replies.loaded_to_json(SUMMARY, MODIFIED, 2345, 0, 4096))

    assert datetime.fromisoformat(entry.pop("expires_at")) == MODIFIED
    assert entry == {
        "name": "m:latest",
        "model": "m:latest",
        "size": 2345,
        "digest": "ab" * 32,
        "details": DETAILS,
        "size_vram": 0,
        "context_length": 4096,
    }


def test_a_model_that_stays_forever_expires_in_292_years() -> None:
    entry = replies.loaded_to_json(SUMMARY, None, 1, 0, 1)

    assert 290 < datetime.fromisoformat(entry["expires_at"]).year - datetime.now(UTC).year < 294


def test_show_leaves_out_what_is_empty() -> None:
    bare = replace(DESCRIPTION, summary=replace(SUMMARY, capabilities=()))

    assert set(as_json(replies.show_to_json(bare))) == {
        "modelfile",
        "details",
        "model_info",
        "modified_at",
    }


def test_show() -> None:
    model = replace(
        DESCRIPTION,
        template="t",
        system="s",
        licenses=("a", "b"),
        parameters={"stop": ["<x>", 'a"\n'], "num_ctx": 4096.0, "temperature": 0.7},
        messages=(Message("user", "hi"),),
        requires="0.1.0",
        info={"general.architecture": "llama", "tokenizer.ggml.tokens": None},
        projector_info={"general.architecture": "clip"},
        tensors=({"name": "w", "type": "F32", "shape": [1]},),
    )

    reply = as_json(replies.show_to_json(model))

    assert datetime.fromisoformat(reply.pop("modified_at")) == MODIFIED
    assert reply == {
        "modelfile": "FROM x\n",
        "details": {**DETAILS, "parent_model": "base"},
        "model_info": {"general.architecture": "llama", "tokenizer.ggml.tokens": None},
        "license": "a\nb",
        "parameters": "\n".join(
            [
                "num_ctx                        4096",
                'stop                           "<x>"',
                'stop                           "a\\"\\n"',
                "temperature                    0.7",
            ]
        ),
        "template": "t",
        "system": "s",
        "requires": "0.1.0",
        "messages": [{"role": "user", "content": "hi"}],
        "projector_info": {"general.architecture": "clip"},
        "tensors": [{"name": "w", "type": "F32", "shape": [1]}],
        "capabilities": ["completion", "tools"],
    }


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1_787_392_800_123_456_789, "2026-08-22T10:00:00.123456789Z"),
        (1_787_392_800_100_000_000, "2026-08-22T10:00:00.1Z"),
    ],
)
def test_times_of_replies_are_utc_with_up_to_nine_digits(nanoseconds: int, text: str) -> None:
    assert replies.format_utc(nanoseconds) == text
