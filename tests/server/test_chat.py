"""/api/chat and /api/generate over HTTP."""

from __future__ import annotations

import json

import pytest

from olla import errors
from olla.messages import ToolCall
from olla.requests import (
    ChatChunk,
    ChatRequest,
    DoneReason,
    GenerateRequest,
    Timings,
    TokenLogprob,
)
from tests.server.conftest import Client, FakeInference, error_of, lines_of

REPLY = [
    ChatChunk(thinking="hm"),
    ChatChunk(content="Hel"),
    ChatChunk(content="lo"),
    ChatChunk(done_reason=DoneReason.STOP, timings=Timings(total_ns=5, num_tokens=2)),
]


async def test_chat_streams_by_default(client: Client, inference: FakeInference) -> None:
    inference.script = [*REPLY]

    lines = await lines_of(await client.post("/api/chat", json={"model": "M"}))

    assert [line["message"]["content"] for line in lines] == ["", "Hel", "lo", ""]
    assert [line["done"] for line in lines] == [False, False, False, True]
    assert {line["model"] for line in lines} == {"M"}
    assert lines[-1]["total_duration"] == 5
    assert inference.requests == [ChatRequest(model="M")]


async def test_generate_streams_by_default(client: Client, inference: FakeInference) -> None:
    inference.script = [*REPLY]

    lines = await lines_of(await client.post("/api/generate", json={"model": "m", "prompt": "p"}))

    assert [line["response"] for line in lines] == ["", "Hel", "lo", ""]
    assert inference.requests == [GenerateRequest(model="m", prompt="p")]


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
async def test_without_streaming_there_is_one_object(
    client: Client, inference: FakeInference, path: str
) -> None:
    inference.script = [*REPLY]

    response = await client.post(path, json={"model": "m", "stream": False})

    body = await response.json()
    whole = body.get("message", body)
    assert response.headers["Content-Type"] == "application/json; charset=utf-8"
    assert whole.get("content", whole.get("response")) == "Hello"
    assert whole["thinking"] == "hm"
    assert body["done_reason"] == "stop"
    assert body["eval_count"] == 2


@pytest.mark.parametrize(
    ("chunk", "expected"),
    [
        (ChatChunk(done_reason=DoneReason.LOAD), {"done": True, "done_reason": "load"}),
        (ChatChunk(done_reason=DoneReason.UNLOAD), {"done": True, "done_reason": "unload"}),
        (
            ChatChunk(rendered_prompt="<p>"),
            {"done": False, "_debug_info": {"rendered_template": "<p>"}},
        ),
    ],
)
async def test_what_is_no_reply_is_one_object_even_when_streamed(
    client: Client, inference: FakeInference, chunk: ChatChunk, expected: dict[str, object]
) -> None:
    inference.script = [chunk]

    response = await client.post("/api/generate", json={"model": "m"})

    body = await response.json()
    assert response.content_type == "application/json"
    del body["created_at"]
    assert body == {"model": "m", "response": "", **expected}


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.ModelNotFound("m"), 404),
        (errors.CapabilityMissing('"m" does not support chat'), 400),
        (errors.PromptTooLong("the prompt is longer than the context length"), 400),
        (errors.ServerBusy(), 503),
        (errors.OutOfMemory("model requires more system memory"), 500),
        (errors.RunnerDied(), 500),
        (errors.StoreError("broken"), 500),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
async def test_an_error_before_the_first_chunk_has_its_status(
    client: Client, inference: FakeInference, error: errors.OllaError, status: int, stream: bool
) -> None:
    inference.script = [error]

    response = await client.post("/api/chat", json={"model": "m", "stream": stream})

    assert await error_of(response) == (status, str(error))


async def test_a_later_error_is_the_last_line(client: Client, inference: FakeInference) -> None:
    inference.script = [ChatChunk(content="He"), errors.RunnerDied()]

    lines = await lines_of(await client.post("/api/chat", json={"model": "m"}))

    assert lines[0]["message"]["content"] == "He"
    assert lines[1:] == [{"error": str(errors.RunnerDied())}]


async def test_a_crash_is_an_empty_500_and_logged(
    client: Client, inference: FakeInference, caplog: pytest.LogCaptureFixture
) -> None:
    inference.script = [ZeroDivisionError("bug")]

    response = await client.post("/api/chat", json={"model": "m"})

    assert (response.status, await response.read()) == (500, b"")
    assert "ZeroDivisionError: bug" in caplog.text
    assert (await client.get("/")).status == 200


async def test_a_crash_in_a_stream_ends_it_with_an_error(
    client: Client, inference: FakeInference
) -> None:
    inference.script = [ChatChunk(content="He"), ZeroDivisionError("bug")]

    lines = await lines_of(await client.post("/api/chat", json={"model": "m"}))

    assert lines[1:] == [{"error": "internal server error"}]


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("/api/chat", {}, (400, "model is required")),
        ("/api/generate", {}, (404, "model '' not found")),
        (
            "/api/generate",
            {"model": "m:cloud"},
            (403, "ollama cloud is disabled: remote model is unavailable"),
        ),
        (
            "/api/chat",
            {"model": "m:20b-cloud"},
            (403, "ollama cloud is disabled: remote model is unavailable"),
        ),
        (
            "/api/chat",
            {"model": "m:cloud:local"},
            (400, 'use either :local or :cloud, not both: "m:cloud:local"'),
        ),
        (
            "/api/chat",
            {"model": "m", "options": {"num_ctx": "x"}},
            (400, 'option "num_ctx" must be of type integer'),
        ),
    ],
)
async def test_a_request_that_cannot_be_used_runs_nothing(
    client: Client,
    inference: FakeInference,
    path: str,
    body: dict[str, object],
    expected: tuple[int, str],
) -> None:
    assert await error_of(await client.post(path, json=body)) == expected
    assert inference.requests == []


async def test_local_names_what_is_here_and_the_reply_echoes_it(
    client: Client, inference: FakeInference
) -> None:
    inference.script = [*REPLY]

    lines = await lines_of(await client.post("/api/chat", json={"model": "m:1b:LOCAL"}))

    assert inference.requests == [ChatRequest(model="m:1b")]
    assert lines[0]["model"] == "m:1b:LOCAL"


async def test_json_is_read_whatever_the_content_type(
    client: Client, inference: FakeInference
) -> None:
    inference.script = [*REPLY]

    body = json.dumps({"MODEL": "m", "stream": False}).encode() + b"\n{}"
    response = await client.post("/api/chat", data=body, headers={"Content-Type": "text/plain"})

    assert response.status == 200


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", "missing request body"),
        (b'{"model":', "unexpected EOF"),
        (b"x", "invalid character 'x' looking for beginning of value"),
        (
            b'{"model":1}',
            "json: cannot unmarshal number 1 into Go struct field GenerateRequest.model "
            "of type string",
        ),
    ],
)
async def test_a_body_that_is_no_request(client: Client, body: bytes, error: str) -> None:
    assert await error_of(await client.post("/api/generate", data=body)) == (400, error)


@pytest.mark.parametrize("stream", [True, False])
async def test_calls_are_numbered_through_the_reply(
    client: Client, inference: FakeInference, stream: bool
) -> None:
    call = ToolCall("f", {"a": 1}, "call_1")
    inference.script = [
        ChatChunk(tool_calls=(call,)),
        ChatChunk(tool_calls=(call, call)),
        ChatChunk(tool_calls=(call,)),
        ChatChunk(done_reason=DoneReason.STOP),
    ]

    response = await client.post("/api/chat", json={"model": "m", "stream": stream})

    lines = await lines_of(response) if stream else [await response.json()]
    calls = [call for line in lines for call in line["message"].get("tool_calls", [])]
    assert [call["function"]["index"] for call in calls] == [0, 1, 2, 3]
    assert calls[0]["id"] == "call_1"


async def test_logprobs_are_sent_even_without_text(
    client: Client, inference: FakeInference
) -> None:
    token = TokenLogprob("a", b"a", -1.0)
    inference.script = [
        ChatChunk(logprobs=(token,)),
        ChatChunk("ab", logprobs=(token,)),
        ChatChunk(done_reason=DoneReason.STOP),
    ]

    lines = await lines_of(await client.post("/api/generate", json={"model": "m", "prompt": "p"}))

    assert [len(line.get("logprobs", [])) for line in lines] == [1, 1, 0]
