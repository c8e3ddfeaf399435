"""/v1/responses over HTTP."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import openai
import pytest

from olla import errors
from olla.messages import Message, ToolCall
from olla.requests import ChatChunk, ChatRequest, DoneReason, Timings
from tests.server.conftest import (
    HANG,
    Client,
    FakeInference,
    events_of,
    openai_error_of,
    until,
)

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PATH = "/v1/responses"
BODY: dict[str, Any] = {"model": "m", "input": "hi"}
REPLY = [
    ChatChunk(thinking="hm"),
    ChatChunk(content="Hel"),
    ChatChunk(content="lo"),
    ChatChunk(done_reason=DoneReason.STOP, timings=Timings(num_prompt_tokens=9, num_tokens=2)),
]


def _parse(event: str) -> dict[str, Any]:
    """An event's data, which repeats its name."""
    name, data = event.split("\n")
    value: dict[str, Any] = json.loads(data.removeprefix("data: "))
    assert name == f"event: {value['type']}"
    return value


async def _ask(client: Client, **fields: Any) -> dict[str, Any]:
    """The response, from the last event where it is streamed."""
    response = await client.post(PATH, json={**BODY, **fields})
    if fields.get("stream"):
        values = [_parse(event) for event in await events_of(response)]
        assert [value["sequence_number"] for value in values] == list(range(len(values)))
        last: dict[str, Any] = values[-1]["response"]
        return last
    assert response.status == 200
    whole: dict[str, Any] = await response.json()
    return whole


def _asked(inference: FakeInference) -> tuple[Message, ...]:
    last = inference.requests[-1]
    assert isinstance(last, ChatRequest)
    return last.messages


@pytest.mark.parametrize("stream", [True, False])
async def test_a_response_is_the_same_whole_and_streamed(
    client: Client, inference: FakeInference, stream: bool
) -> None:
    inference.script = [*REPLY]

    response = await _ask(client, stream=stream)

    assert response["id"].startswith("resp_")
    assert (response["status"], response["model"]) == ("completed", "m")
    assert [item["type"] for item in response["output"]] == ["reasoning", "message"]
    assert response["output"][1]["content"][0]["text"] == "Hello"
    assert response["completed_at"] >= response["created_at"] > 1_700_000_000
    assert response["usage"]["total_tokens"] == 11


@pytest.mark.parametrize("stream", [True, False])
async def test_a_conversation_goes_on_from_an_earlier_response(
    client: Client, inference: FakeInference, stream: bool
) -> None:
    inference.script = [*REPLY]
    first = await _ask(client, instructions="old", stream=stream)
    second = await _ask(client, previous_response_id=first["id"], input="more", stream=stream)

    third = await _ask(client, previous_response_id=second["id"], instructions="new", input="last")

    assert third["previous_response_id"] == second["id"]
    said = Message("assistant", "Hello", "hm")
    assert _asked(inference) == (
        Message("system", "new"),
        Message("user", "hi"),
        said,
        Message("user", "more"),
        said,
        Message("user", "last"),
    )


async def test_a_response_can_be_looked_at_and_deleted(
    client: Client, inference: FakeInference
) -> None:
    inference.script = [*REPLY]
    response = await _ask(client)
    path = f"{PATH}/{response['id']}"

    seen = await client.get(path)
    deleted = await client.delete(path)
    gone = [await client.get(path), await client.delete(path)]

    assert await seen.json() == response
    assert await deleted.json() == {"id": response["id"], "object": "response", "deleted": True}
    text = f"response '{response['id']}' not found"
    assert [await openai_error_of(answer) for answer in gone] == [
        (404, "not_found_error", text)
    ] * 2


async def test_a_response_that_is_not_to_be_stored_is_not(
    client: Client, inference: FakeInference
) -> None:
    inference.script = [*REPLY]
    response = await _ask(client, store=False)

    answer = await client.post(PATH, json={**BODY, "previous_response_id": response["id"]})

    status, kind, text = await openai_error_of(answer)
    assert (status, kind) == (400, "invalid_request_error")
    assert text.startswith(f"previous response '{response['id']}' not found")
    assert response["store"] is False


@pytest.mark.parametrize("stream", [True, False])
async def test_a_response_that_is_cut_off_is_incomplete(
    client: Client, inference: FakeInference, stream: bool
) -> None:
    inference.script = [ChatChunk(content="a"), ChatChunk(done_reason=DoneReason.LENGTH)]

    response = await _ask(client, stream=stream)

    assert response["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}


@pytest.mark.parametrize("stream", [True, False])
async def test_an_error_before_the_first_chunk_has_its_status(
    client: Client, inference: FakeInference, stream: bool
) -> None:
    inference.script = [errors.ModelNotFound("m")]

    response = await client.post(PATH, json={**BODY, "stream": stream})

    assert await openai_error_of(response) == (404, "not_found_error", "model 'm' not found")


async def test_a_later_error_is_a_response_that_failed(
    client: Client, inference: FakeInference, caplog: pytest.LogCaptureFixture
) -> None:
    inference.script = [ChatChunk(content="He"), errors.RunnerDied()]

    response = await _ask(client, stream=True)

    assert response["status"] == "failed"
    assert response["error"] == {"code": "server_error", "message": str(errors.RunnerDied())}
    assert "failed in mid-stream" in caplog.text
    answer = await client.get(f"{PATH}/{response['id']}")
    assert answer.status == 404


async def test_the_official_client_gets_a_later_error_as_an_event(
    client: Client, inference: FakeInference
) -> None:
    inference.script = [ChatChunk(content="He"), errors.RunnerDied()]

    async with openai.AsyncOpenAI(base_url=str(client.make_url("/v1")), api_key="x") as oai:
        stream = await oai.responses.create(model="m", input="hi", stream=True)
        events = [event async for event in stream]

    assert events[-1].type == "response.failed"
    assert events[-1].response.error is not None
    assert events[-1].response.error.code == "server_error"


async def test_a_request_like_codexs_is_read_from_a_compressed_body(
    client: Client, inference: FakeInference
) -> None:
    call = ToolCall("mcp__fs.ls", {"path": "."}, "c2")
    inference.script = [ChatChunk(thinking="hm"), ChatChunk(tool_calls=(call,)), REPLY[-1]]
    body = {
        "model": "m",
        "instructions": "You code.",
        "input": [
            {"type": "message", "role": "developer", "content": [_part("Sandbox.")]},
            {"type": "message", "role": "user", "content": [_part("Look.")]},
            {"type": "reasoning", "summary": [], "encrypted_content": "I look."},
            {
                "type": "function_call",
                "call_id": "c1",
                "namespace": "mcp__fs",
                "name": "ls",
                "arguments": "{}",
            },
            {"type": "function_call_output", "call_id": "c1", "output": "a.py"},
        ],
        "tools": [
            {"type": "function", "name": "shell", "parameters": {}, "strict": False},
            {
                "type": "namespace",
                "name": "mcp__fs",
                "tools": [{"type": "function", "name": "ls", "parameters": {}}],
            },
            {"type": "web_search", "external_web_access": False},
        ],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "reasoning": {"effort": "medium", "summary": "auto"},
        "include": ["reasoning.encrypted_content"],
        "store": False,
        "stream": True,
    }

    response = await client.post(
        PATH,
        data=zstd.compress(json.dumps(body).encode()),
        headers={"Content-Encoding": "zstd", "OpenAI-Beta": "responses=experimental"},
    )

    last = _parse((await events_of(response))[-1])["response"]
    assert [item["type"] for item in last["output"]] == ["reasoning", "function_call"]
    called = last["output"][1]
    assert (called["namespace"], called["name"], called["call_id"]) == ("mcp__fs", "ls", "c2")
    (asked,) = inference.requests
    assert isinstance(asked, ChatRequest)
    assert [tool.name for tool in asked.tools] == ["shell", "mcp__fs.ls", "web_search"]
    assert asked.think == "medium"
    assert asked.messages == (
        Message("system", "You code.\n\nSandbox."),
        Message("user", "Look."),
        Message("assistant", thinking="I look.", tool_calls=(ToolCall("mcp__fs.ls", {}, "c1"),)),
        Message("tool", "a.py", tool_name="mcp__fs.ls", tool_call_id="c1"),
    )


def _part(text: str) -> dict[str, str]:
    return {"type": "input_text", "text": text}


async def test_a_crash_in_a_stream_ends_it_with_an_error(
    client: Client, inference: FakeInference
) -> None:
    inference.script = [ChatChunk(content="He"), ZeroDivisionError("bug")]

    events = await events_of(await client.post(PATH, json={**BODY, "stream": True}))

    assert json.loads(events[-1].removeprefix("data: "))["error"]["type"] == "api_error"


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        ({}, 400, "model is required"),
        ({**BODY, "background": True}, 400, "background is not supported by this server"),
        ({**BODY, "conversation": "c"}, 400, "conversation is not supported by this server"),
        ({**BODY, "previous_response_id": "resp_0"}, 400, "previous response 'resp_0' not found"),
        ({**BODY, "model": "m:cloud"}, 403, "remote model is unavailable"),
    ],
)
async def test_what_cannot_be_answered_is_refused(
    client: Client, inference: FakeInference, body: dict[str, Any], status: int, text: str
) -> None:
    answer = await openai_error_of(await client.post(PATH, json=body))

    assert answer[0] == status
    assert text in answer[2]
    assert inference.requests == []


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("depth", [200, 980, 2000])
async def test_a_request_nested_too_deeply_is_refused(
    client: Client, inference: FakeInference, depth: int, stream: bool
) -> None:
    inference.script = [*REPLY]
    schema = '{"a":' * depth + "{}" + "}" * depth
    tools = f'[{{"type":"function","name":"f","parameters":{schema}}}]'
    body = f'{{"model":"m","input":"hi","stream":{json.dumps(stream)},"tools":{tools}}}'

    response = await client.post(PATH, data=body)

    assert (await openai_error_of(response))[0] == 400


@pytest.mark.parametrize("stream", [True, False])
async def test_leaving_ends_the_reply(
    client: Client, inference: FakeInference, stream: bool
) -> None:
    inference.script = [ChatChunk(content="a"), HANG]
    posting = client.post(PATH, json={**BODY, "stream": stream})
    if stream:
        (await posting).close()
    else:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await posting

    await until(inference.closed.is_set)
