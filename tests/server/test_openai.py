"""OpenAI's chat completions, completions and models over HTTP."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from olla import errors
from olla.messages import Message, ToolCall
from olla.options import Options
from olla.registry.store import ModelStore
from olla.requests import ChatChunk, ChatRequest, DoneReason, GenerateRequest, Timings
from tests.server.conftest import (
    HANG,
    Client,
    FakeInference,
    add_model,
    events_of,
    open_connection,
    openai_error_of,
)
from tests.server.test_compression import pack

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
BODY: dict[str, Any] = {
    "model": "M",
    "messages": [{"role": "user", "content": "Hi"}],
    "prompt": "Hi",
}
STOP = ChatChunk(done_reason=DoneReason.STOP, timings=Timings(num_prompt_tokens=5, num_tokens=2))
REPLY = [ChatChunk(thinking="hm"), ChatChunk("Hel"), ChatChunk("lo"), STOP]
BOTH = pytest.mark.parametrize("path", [CHAT, COMPLETIONS])


async def _post(client: Client, path: str, **fields: Any) -> dict[str, Any]:
    response = await client.post(path, json=BODY | fields)
    assert response.status == 200
    assert response.headers["Content-Type"] == "application/json; charset=utf-8"
    body: dict[str, Any] = await response.json()
    return body


async def _stream(client: Client, path: str, **fields: Any) -> list[dict[str, Any]]:
    events = await events_of(await client.post(path, json=BODY | {"stream": True} | fields))
    assert events.pop() == "data: [DONE]"
    return [json.loads(event.removeprefix("data: ")) for event in events]


async def test_a_chat_is_whole_by_default(client: Client, inference: FakeInference) -> None:
    inference.script = [*REPLY]

    body = await _post(client, CHAT)

    message = {"role": "assistant", "content": "Hello", "reasoning": "hm"}
    assert body["choices"] == [{"index": 0, "message": message, "finish_reason": "stop"}]
    assert body["model"] == "M"
    assert body["usage"]["total_tokens"] == 7
    assert inference.requests == [
        ChatRequest(
            "M",
            stream=False,
            truncate=False,
            options=Options(temperature=1.0, top_p=1.0),
            messages=(Message("user", "Hi"),),
        )
    ]
    assert inference.closed.is_set()


async def test_a_chat_streams_when_asked_to(client: Client, inference: FakeInference) -> None:
    inference.script = [*REPLY[:3], ChatChunk(tool_calls=(ToolCall("f"),)), STOP]

    *events, last = await _stream(client, CHAT, stream_options={"include_usage": True})

    deltas = [event["choices"][0]["delta"] for event in events]
    assert "".join(delta.get("content", "") for delta in deltas) == "Hello"
    assert "".join(delta.get("reasoning", "") for delta in deltas) == "hm"
    assert [delta.get("role") for delta in deltas] == ["assistant", None, None, None, None]
    assert events[-1]["choices"][0]["finish_reason"] == "tool_calls"
    assert (last["choices"], last["usage"]["prompt_tokens"]) == ([], 5)


async def test_a_completion_is_whole_by_default(client: Client, inference: FakeInference) -> None:
    inference.script = [*REPLY]

    body = await _post(client, COMPLETIONS)

    assert body["choices"] == [{"index": 0, "text": "Hello", "finish_reason": "stop"}]
    assert isinstance(inference.requests[0], GenerateRequest)


async def test_a_completion_streams_when_asked_to(client: Client, inference: FakeInference) -> None:
    inference.script = [*REPLY[1:]]

    events = await _stream(client, COMPLETIONS)

    assert [event["choices"][0]["text"] for event in events] == ["Hel", "lo", ""]


@BOTH
async def test_choices_are_requests_of_their_own(
    client: Client, inference: FakeInference, path: str
) -> None:
    inference.script = [*REPLY]

    body = await _post(client, path, n=3, seed=7)

    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    assert [request.options.seed for request in inference.requests] == [7, 8, 9]
    assert body["usage"]["prompt_tokens"] == 5
    assert body["usage"]["completion_tokens"] == 6


@BOTH
async def test_choices_stream_under_their_numbers(
    client: Client, inference: FakeInference, path: str
) -> None:
    inference.script = [*REPLY[1:]]

    events = await _stream(client, path, n=2)

    choices = [event["choices"][0] for event in events]
    for index in range(2):
        own = [choice for choice in choices if choice["index"] == index]
        texts = [choice.get("text", choice.get("delta", {}).get("content")) for choice in own]
        assert "".join(text or "" for text in texts) == "Hello"
        assert [choice["finish_reason"] for choice in own] == [None, None, "stop"]


async def test_every_prompt_has_choices(client: Client, inference: FakeInference) -> None:
    inference.script = [*REPLY]

    body = await _post(client, COMPLETIONS, prompt=["a", [1, 2]], n=2)

    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2, 3]
    assert body["usage"]["prompt_tokens"] == 10
    prompts = [
        (request.prompt, request.tokens)
        for request in inference.requests
        if isinstance(request, GenerateRequest)
    ]
    assert sorted(prompts) == [("", (1, 2))] * 2 + [("a", ())] * 2


@BOTH
async def test_a_prompt_that_is_only_rendered_comes_whole(
    client: Client, inference: FakeInference, path: str
) -> None:
    inference.script = [ChatChunk(rendered_prompt="<p>")]

    body = await _post(client, path, stream=True, _debug_render_only=True)

    assert body["_debug_info"] == {"rendered_template": "<p>"}


@BOTH
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (errors.ModelNotFound("M"), 404, "not_found_error"),
        (errors.CapabilityMissing("no"), 400, "invalid_request_error"),
        (errors.ServerBusy(), 503, "api_error"),
        (errors.RunnerDied(), 500, "api_error"),
    ],
)
async def test_an_early_error_has_its_status(
    client: Client,
    inference: FakeInference,
    path: str,
    stream: bool,
    error: errors.OllaError,
    status: int,
    kind: str,
) -> None:
    inference.script = [error]

    response = await client.post(path, json=BODY | {"stream": stream})

    assert await openai_error_of(response) == (status, kind, str(error))
    assert response.headers["Content-Type"] == "application/json"


async def test_a_prompt_that_is_too_long_has_a_code(
    client: Client, inference: FakeInference
) -> None:
    inference.script = [errors.PromptTooLong("too long")]

    response = await client.post(CHAT, json=BODY)

    error = (await response.json())["error"]
    assert (response.status, error["type"]) == (400, "invalid_request_error")
    assert error["code"] == "context_length_exceeded"


@BOTH
@pytest.mark.parametrize("number", [1, 2])
async def test_a_late_error_is_the_last_event(
    client: Client, inference: FakeInference, path: str, number: int
) -> None:
    inference.script = [ChatChunk("a"), errors.RunnerDied(in_mid_reply=True)]

    response = await client.post(path, json=BODY | {"stream": True, "n": number})

    *_, last = await events_of(response)
    error = json.loads(last.removeprefix("data: "))["error"]
    assert error["type"] == "api_error"
    assert error["message"].startswith("an error was encountered while running the model")


@BOTH
async def test_a_stream_ends_with_an_error_when_the_server_stops(
    client: Client, inference: FakeInference, path: str
) -> None:
    inference.script = [ChatChunk("a"), HANG]
    response = await client.post(path, json=BODY | {"stream": True})

    _, events = await asyncio.gather(client.server.close(), events_of(response))

    assert '"message":"the server is shutting down"' in events[-1]


@BOTH
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("number", [1, 3])
async def test_leaving_ends_the_reply(
    client: Client, inference: FakeInference, path: str, stream: bool, number: int
) -> None:
    inference.script = [ChatChunk("a"), HANG]
    _, writer = await open_connection(client)
    body = json.dumps(BODY | {"stream": stream, "n": number}).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await inference.hangs.wait()

    writer.close()

    await asyncio.wait_for(inference.closed.wait(), 5)


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        (CHAT, b"", (400, "invalid_request_error", "EOF")),
        (COMPLETIONS, b"", (400, "invalid_request_error", "EOF")),
        (CHAT, b"{", (400, "invalid_request_error", "unexpected EOF")),
        (CHAT, b'{"messages": [{"content": "a"}]}', (400, "invalid_request_error",
         "model is required")),
        (COMPLETIONS, b'{"prompt": "a"}', (404, "not_found_error", "model '' not found")),
        (CHAT, b'{"model": "m"}', (400, "invalid_request_error",
         "[] is too short - 'messages'")),
        (CHAT, b'{"model": "m:cloud", "messages": [{"content": "a"}]}',
         (403, "api_error", "ollama cloud is disabled: remote model is unavailable")),
    ],
)  # fmt: skip
async def test_what_cannot_be_answered(
    client: Client, path: str, body: bytes, expected: tuple[int, str, str]
) -> None:
    assert await openai_error_of(await client.post(path, data=body)) == expected


async def test_a_local_model_is_asked_and_answers_by_the_name_it_was_given(
    client: Client, inference: FakeInference
) -> None:
    inference.script = [STOP]

    body = await _post(client, CHAT, model="m:local")

    assert (body["model"], inference.requests[0].model) == ("m:local", "m")


async def test_a_body_may_be_packed(client: Client, inference: FakeInference) -> None:
    inference.script = [*REPLY]

    response = await client.post(
        CHAT,
        data=pack(json.dumps(BODY).encode()),
        headers={"Content-Encoding": "zstd"},
    )

    assert (await response.json())["choices"][0]["message"]["content"] == "Hello"


async def test_a_packed_body_that_cannot_be_read_is_bad_input(client: Client) -> None:
    response = await client.post(CHAT, json=BODY, headers={"Content-Encoding": "zstd"})

    status, kind, text = await openai_error_of(response)
    assert (status, kind) == (400, "invalid_request_error")
    assert text.startswith("the zstd body cannot be read")


@pytest.mark.parametrize(
    ("method", "path"), [("GET", CHAT), ("PUT", COMPLETIONS), ("POST", "/v1/models")]
)
async def test_a_method_that_a_path_does_not_have(client: Client, method: str, path: str) -> None:
    response = await client.request(method, path)

    assert response.headers["Allow"]
    assert await openai_error_of(response) == (405, "api_error", "405 method not allowed")


async def test_models_are_listed(client: Client, store: ModelStore) -> None:
    add_model(store, "me/a:x")

    body = await (await client.get("/v1/models")).json()

    assert body["object"] == "list"
    assert [(item["id"], item["owned_by"]) for item in body["data"]] == [("me/a:x", "me")]


async def test_an_empty_store_lists_nothing(client: Client) -> None:
    assert await (await client.get("/v1/models")).json() == {"object": "list", "data": []}


@pytest.mark.parametrize("text", ["me/a:x", "me%2Fa:x", "ME/a:x"])
async def test_a_model_may_have_slashes_in_its_name(
    client: Client, store: ModelStore, text: str
) -> None:
    add_model(store, "me/a:x")

    body = await (await client.get(f"/v1/models/{text}")).json()

    assert body["id"] == text.replace("%2F", "/")
    assert (body["object"], body["owned_by"]) == ("model", "me")


async def test_a_model_that_is_not_there(client: Client) -> None:
    answer = await openai_error_of(await client.get("/v1/models/x"))

    assert answer == (404, "not_found_error", "model 'x:latest' not found")


async def test_a_name_that_cannot_be(client: Client) -> None:
    answer = await openai_error_of(await client.get("/v1/models/a//b"))

    assert answer == (400, "invalid_request_error", "invalid model name")


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/x"])
async def test_a_slash_at_the_end_of_models_is_redirected(client: Client, path: str) -> None:
    response = await client.get(f"{path}/", allow_redirects=False)

    assert (response.status, response.headers["Location"]) == (301, path)
