"""The official OpenAI client finds in olla's responses what it finds in OpenAI's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ollama
import openai
import pytest
from openai.types.responses import Response

from tests.conformance.conftest import MODEL
from tests.conformance.daemon import Daemon

pytestmark = pytest.mark.weights

QUESTION = "Why is the sky blue?"
ASK: dict[str, Any] = {
    "model": MODEL,
    "input": QUESTION,
    "temperature": 0,
    "max_output_tokens": 16,
}


@pytest.fixture(scope="module")
def oai(daemon: Daemon, client: ollama.Client) -> Iterator[openai.OpenAI]:
    """The official client, at a daemon that has the model."""
    with openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="any", max_retries=0) as oai:
        yield oai


@pytest.fixture(scope="module")
def whole(oai: openai.OpenAI) -> Response:
    response: Response = oai.responses.create(**ASK)
    return response


def test_a_response_has_its_text_and_its_counts(whole: Response) -> None:
    assert (whole.object, whole.model, whole.error) == ("response", MODEL, None)
    assert len(whole.output_text.split()) > 8
    assert whole.usage is not None
    assert (whole.usage.input_tokens, whole.usage.output_tokens) == (36, 16)
    assert whole.usage.total_tokens == 52


def test_a_response_that_is_cut_off_says_so(whole: Response) -> None:
    assert whole.status == "incomplete"
    assert whole.incomplete_details is not None
    assert whole.incomplete_details.reason == "max_output_tokens"


def test_a_stream_adds_up_to_the_response(oai: openai.OpenAI, whole: Response) -> None:
    with oai.responses.create(**ASK, stream=True) as stream:
        events = list(stream)

    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    last = events[-1]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert last.type == "response.incomplete"
    assert text == last.response.output_text == whole.output_text
    assert last.response.usage is not None
    assert last.response.usage.input_tokens_details.cached_tokens == 32


async def test_the_asynchronous_client_streams(daemon: Daemon, whole: Response) -> None:
    url = f"{daemon.url}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key="any", max_retries=0) as oai:
        stream = await oai.responses.create(**ASK, stream=True)
        deltas = [e.delta async for e in stream if e.type == "response.output_text.delta"]

    assert "".join(deltas) == whole.output_text


def test_a_conversation_goes_on_from_an_earlier_response(oai: openai.OpenAI) -> None:
    ask = {**ASK, "max_output_tokens": 8}
    first = oai.responses.create(**{**ask, "input": "My name is Ada."})

    second = oai.responses.create(
        **{**ask, "input": "What is my name?"}, previous_response_id=first.id
    )

    replayed = oai.responses.create(
        **{
            **ask,
            "input": [
                {"role": "user", "content": "My name is Ada."},
                *[item.to_dict() for item in first.output],
                {"role": "user", "content": "What is my name?"},
            ],
        }
    )
    assert second.previous_response_id == first.id
    assert second.output_text == replayed.output_text
    assert second.usage is not None and replayed.usage is not None
    assert second.usage.input_tokens == replayed.usage.input_tokens


def test_a_response_is_retrieved_and_deleted(oai: openai.OpenAI, whole: Response) -> None:
    response = oai.responses.create(**{**ASK, "max_output_tokens": 1})

    assert oai.responses.retrieve(response.id).to_dict() == response.to_dict()
    oai.responses.delete(response.id)
    with pytest.raises(openai.NotFoundError, match="not found"):
        oai.responses.retrieve(response.id)


def test_a_request_like_codexs_is_answered(oai: openai.OpenAI) -> None:
    response = oai.responses.create(
        model=MODEL,
        instructions="You write code.",
        input=[
            {
                "type": "message",
                "role": "developer",
                "content": [{"type": "input_text", "text": "Be brief."}],
            },
            {
                "type": "message",
                "role": "user",
                "content": [{"type": "input_text", "text": "List the files."}],
            },
            {
                "type": "reasoning",
                "id": "rs_1",
                "summary": [],
                "encrypted_content": "I look.",
            },
            {
                "type": "function_call",
                "call_id": "c1",
                "namespace": "fs",
                "name": "ls",
                "arguments": "{}",
            },
            {"type": "function_call_output", "call_id": "c1", "output": "a.py"},
        ],
        include=["reasoning.encrypted_content"],
        parallel_tool_calls=False,
        prompt_cache_key="k",
        max_output_tokens=8,
        store=False,
    )

    assert response.output_text
    assert response.store is False  # type: ignore[attr-defined]
    with pytest.raises(openai.NotFoundError):
        oai.responses.retrieve(response.id)


@pytest.mark.parametrize(
    ("fields", "error", "text"),
    [
        ({"model": "nobody"}, openai.NotFoundError, "model 'nobody' not found"),
        ({"previous_response_id": "resp_0"}, openai.BadRequestError, "'resp_0' not found"),
        ({"background": True}, openai.BadRequestError, "background is not supported"),
        (
            {"tools": [{"type": "function", "name": "f", "parameters": {}}]},
            openai.BadRequestError,
            "does not support tools",
        ),
        ({"input": "a b " * 4000}, openai.BadRequestError, "longer than the context length"),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
def test_errors_are_the_clients_own(
    oai: openai.OpenAI,
    fields: dict[str, Any],
    error: type[openai.APIStatusError],
    text: str,
    stream: bool,
) -> None:
    with pytest.raises(error, match=text):
        oai.responses.create(**{**ASK, **fields}, stream=stream)


def test_leaving_early_leaves_the_daemon_answering(oai: openai.OpenAI) -> None:
    with oai.responses.create(**{**ASK, "max_output_tokens": 4000}, stream=True) as stream:
        for event in stream:
            if event.type == "response.output_text.delta":
                break

    assert oai.responses.create(**{**ASK, "max_output_tokens": 1}).output_text


def test_truncation_leaves_whole_messages_out_and_cuts_none(oai: openai.OpenAI) -> None:
    long = {"role": "user", "content": "word " * 5000}
    ask = {**ASK, "truncation": "auto"}

    left_out = oai.responses.create(**{**ask, "input": [long, {"role": "user", "content": "Hi"}]})
    with pytest.raises(openai.BadRequestError, match="longer than the context") as caught:
        oai.responses.create(**{**ask, "input": [long]})

    assert left_out.usage is not None
    assert left_out.usage.input_tokens < 100
    assert caught.value.code == "context_length_exceeded"
