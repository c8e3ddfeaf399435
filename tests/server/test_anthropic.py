"""/v1/messages over HTTP."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import anthropic
import pytest

from olla import errors
from olla.messages import Message
from olla.requests import ChatChunk, ChatRequest, DoneReason, Timings
from olla.server.callers import REQUEST_ID
from olla.server.handlers.anthropic import PING
from tests.server.conftest import HANG, Client, FakeInference, events_of, until

PATH = "/v1/messages"
COUNT = "/v1/messages/count_tokens"
BODY: dict[str, Any] = {
    "model": "M:local",
    "max_tokens": 5,
    "messages": [{"role": "user", "content": "12345678"}],
}
TIMINGS = Timings(num_prompt_tokens=9, num_cached_tokens=2, num_tokens=2)
REPLY = [
    ChatChunk(content="Hel"),
    ChatChunk(content="lo"),
    ChatChunk(done_reason=DoneReason.STOP, timings=TIMINGS),
]


def _parse(event: str) -> dict[str, Any]:
    """An event's data, which repeats its name."""
    name, data = event.split("\n")
    value: dict[str, Any] = json.loads(data.removeprefix("data: "))
    assert name == f"event: {value['type']}"
    return value


async def test_a_message_is_whole_unless_it_is_to_be_streamed(
    client: Client, inference: FakeInference
) -> None:
    inference.script = [*REPLY]

    response = await client.post(f"{PATH}?beta=true", json=BODY, headers={"x-api-key": "any"})

    body = await response.json()
    assert body["content"] == [{"type": "text", "text": "Hello"}]
    assert (body["model"], body["stop_reason"]) == ("M:local", "end_turn")
    assert body["id"].startswith("msg_") and len(body["id"]) == 28
    assert (body["usage"]["input_tokens"], body["usage"]["cache_read_input_tokens"]) == (7, 2)
    (asked,) = inference.requests
    assert isinstance(asked, ChatRequest)
    assert (asked.model, asked.messages) == ("M", (Message("user", "12345678"),))


async def test_a_message_is_streamed_as_named_events(
    client: Client, inference: FakeInference
) -> None:
    inference.script = [*REPLY]

    events = await events_of(await client.post(PATH, json={**BODY, "stream": True}))

    values = [_parse(event) for event in events]
    assert [value["type"] for value in values] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert values[0]["message"]["usage"]["input_tokens"] == 2
    assert values[-2]["usage"]["input_tokens"] == 7


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (errors.ModelNotFound("m"), 404, "not_found_error"),
        (errors.PromptTooLong("prompt is too long: 9 tokens > 8 maximum"), 400, "invalid_request"),
        (errors.ServerBusy(), 503, "overloaded_error"),
        (errors.RunnerDied(), 500, "api_error"),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
async def test_an_error_before_the_first_chunk_has_its_status(
    client: Client,
    inference: FakeInference,
    error: errors.OllaError,
    status: int,
    kind: str,
    stream: bool,
) -> None:
    inference.script = [error]

    response = await client.post(PATH, json={**BODY, "stream": stream})

    body = await response.json()
    assert (response.status, body["type"]) == (status, "error")
    assert body["error"]["type"].startswith(kind)
    assert body["error"]["message"] == str(error)
    assert body["request_id"] == f"req_{response.headers[REQUEST_ID]}"  # as in the log


async def test_a_later_error_is_the_last_event(client: Client, inference: FakeInference) -> None:
    inference.script = [ChatChunk(content="He"), errors.RunnerDied()]

    events = await events_of(await client.post(PATH, json={**BODY, "stream": True}))

    last = _parse(events[-1])
    assert (last["type"], last["error"]["type"]) == ("error", "api_error")
    assert last["error"]["message"] == str(errors.RunnerDied())


async def test_the_official_client_raises_a_later_error(
    client: Client, inference: FakeInference
) -> None:
    inference.script = [ChatChunk(content="He"), errors.RunnerDied()]
    text = ""

    async with anthropic.AsyncAnthropic(base_url=str(client.make_url("")), api_key="x") as claude:
        with pytest.raises(anthropic.APIStatusError, match="unexpectedly stopped"):
            async with claude.messages.stream(
                model="m", max_tokens=5, messages=[{"role": "user", "content": "hi"}]
            ) as stream:
                async for piece in stream.text_stream:
                    text += piece

    assert text == "He"


@pytest.mark.parametrize(
    ("path", "body", "status", "text"),
    [
        (PATH, {}, 400, "model is required"),
        (COUNT, {}, 400, "model is required"),
        (PATH, {**BODY, "max_tokens": 0}, 400, "max_tokens is required and must be positive"),
        (PATH, {**BODY, "container": "c"}, 400, "container is not supported by this server"),
        (PATH, {**BODY, "model": "m:cloud"}, 403, "remote model is unavailable"),
    ],
)
async def test_what_cannot_be_answered_is_refused(
    client: Client,
    inference: FakeInference,
    path: str,
    body: dict[str, Any],
    status: int,
    text: str,
) -> None:
    response = await client.post(path, json=body)

    answer = await response.json()
    assert (response.status, answer["type"]) == (status, "error")
    assert text in answer["error"]["message"]
    assert inference.requests == []


async def test_tokens_are_counted_without_a_reply(client: Client, inference: FakeInference) -> None:
    inference.script = [ChatChunk(timings=TIMINGS)]
    body = {key: value for key, value in BODY.items() if key != "max_tokens"}

    response = await client.post(f"{COUNT}?beta=true", json=body)

    assert (response.status, await response.json()) == (200, {"input_tokens": 9})
    assert inference.requests[0].model == "M"


async def test_counting_what_is_not_there_is_404(client: Client, inference: FakeInference) -> None:
    inference.script = [errors.ModelNotFound("M")]

    response = await client.post(COUNT, json=BODY)

    body = await response.json()
    assert (response.status, body["error"]["type"]) == (404, "not_found_error")


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


def test_a_ping_is_an_event_of_its_own() -> None:
    assert PING == b'event: ping\ndata: {"type":"ping"}\n\n'
