"""The official Anthropic client finds in olla what it finds in Anthropic's API."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import ollama
import pytest
from anthropic.types import Message, TextBlock

from tests.conformance.conftest import MODEL
from tests.conformance.daemon import Daemon

pytestmark = pytest.mark.weights

QUESTION = "Why is the sky blue?"
NUM_PROMPT_TOKENS = 36
ASK: dict[str, Any] = {
    "model": MODEL,
    "max_tokens": 16,
    "messages": [{"role": "user", "content": QUESTION}],
    "extra_body": {"temperature": 0},
}
CACHED = {"cache_control": {"type": "ephemeral"}}


@pytest.fixture(scope="module")
def claude(daemon: Daemon, client: ollama.Client) -> Iterator[anthropic.Anthropic]:
    """The official client, at a daemon that has the model."""
    with anthropic.Anthropic(base_url=daemon.url, auth_token="any", max_retries=0) as claude:
        yield claude


@pytest.fixture(scope="module")
def whole(claude: anthropic.Anthropic) -> Message:
    message: Message = claude.messages.create(**ASK)
    return message


def _text(message: Message) -> str:
    (block,) = message.content
    assert isinstance(block, TextBlock)
    return block.text


def test_a_message_has_its_text_and_its_counts(whole: Message) -> None:
    assert (whole.type, whole.role, whole.model) == ("message", "assistant", MODEL)
    assert len(_text(whole).split()) > 8
    assert (whole.stop_reason, whole.stop_sequence) == ("max_tokens", None)
    assert whole.usage.output_tokens == 16
    assert _num_prompt_tokens(whole) == NUM_PROMPT_TOKENS


def _num_prompt_tokens(message: Message) -> int:
    return message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0)


def test_the_stream_helper_gives_the_same_message(
    claude: anthropic.Anthropic, whole: Message
) -> None:
    with claude.messages.stream(**ASK) as stream:
        texts = list(stream.text_stream)
        message = stream.get_final_message()

    assert len(texts) > 5
    assert "".join(texts) == _text(whole) == _text(message)
    assert (message.stop_reason, message.usage.output_tokens) == ("max_tokens", 16)
    assert message.usage.cache_read_input_tokens == 32  # whole blocks of the same prompt
    assert message.usage.input_tokens == NUM_PROMPT_TOKENS - 32


def test_a_stream_of_events_is_in_order(claude: anthropic.Anthropic) -> None:
    with claude.messages.create(**ASK, stream=True) as stream:
        kinds = [event.type for event in stream]

    assert kinds[:2] == ["message_start", "content_block_start"]
    assert set(kinds[2:-3]) == {"content_block_delta"}
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]


async def test_the_asynchronous_client_streams(daemon: Daemon, whole: Message) -> None:
    async with (
        anthropic.AsyncAnthropic(base_url=daemon.url, api_key="any", max_retries=0) as claude,
        claude.messages.stream(**ASK) as stream,
    ):
        text = "".join([piece async for piece in stream.text_stream])

    assert text == _text(whole)


@pytest.mark.parametrize("stream", [True, False])
def test_a_stop_sequence_ends_the_message_and_is_named(
    claude: anthropic.Anthropic, whole: Message, stream: bool
) -> None:
    stop = _text(whole).split()[4]
    ask = {**ASK, "stop_sequences": ["no such text", stop]}

    if stream:
        with claude.messages.stream(**ask) as events:
            message: Message = events.get_final_message()
    else:
        message = claude.messages.create(**ask)

    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", stop)
    assert _text(message) == _text(whole)[: _text(whole).index(stop)]


def test_tokens_are_counted_as_they_are_used(claude: anthropic.Anthropic, whole: Message) -> None:
    plain = claude.messages.count_tokens(model=MODEL, messages=ASK["messages"])
    told = claude.messages.count_tokens(
        model=MODEL, messages=ASK["messages"], system=[{"type": "text", "text": "Be brief."}]
    )

    assert plain.input_tokens == _num_prompt_tokens(whole)
    assert told.input_tokens != plain.input_tokens


def test_a_request_like_claude_codes_is_answered(claude: anthropic.Anthropic) -> None:
    message = claude.beta.messages.create(
        model=MODEL,
        max_tokens=8,
        betas=["claude-code-20250219", "context-management-2025-06-27"],
        system=[
            {"type": "text", "text": "You write code."},
            {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}},
        ],
        thinking={"type": "adaptive"},
        output_config={"effort": "medium"},
        metadata={"user_id": "someone"},
        messages=[
            {
                "role": "user",
                "content": [
                    {
                        "type": "text",
                        "text": "Read it.",
                        "cache_control": {"type": "ephemeral"},
                    }
                ],
            },
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "sig_1"},
                    {"type": "tool_use", "id": "t1", "name": "Read", "input": {"path": "a"}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {
                        "type": "tool_result",
                        "tool_use_id": "t1",
                        "content": [{"type": "text", "text": "print(1)"}],
                    },
                    {"type": "text", "text": "What does it print?"},
                ],
            },
        ],
    )

    assert message.content[0].type == "text"
    assert message.usage.output_tokens <= 8


def test_tools_reach_only_models_that_can_call_them(claude: anthropic.Anthropic) -> None:
    tool: Any = {"name": "Read", "input_schema": {"type": "object"}, **CACHED}

    with pytest.raises(anthropic.BadRequestError, match="does not support tools"):
        claude.messages.create(**ASK, tools=[tool])


@pytest.mark.parametrize(
    ("fields", "error", "text"),
    [
        ({"model": "nobody"}, anthropic.NotFoundError, "model 'nobody' not found"),
        ({"max_tokens": 0}, anthropic.BadRequestError, "must be positive"),
        ({"messages": []}, anthropic.BadRequestError, "messages is required"),
        ({"container": "c"}, anthropic.BadRequestError, "container is not supported"),
        (
            {"messages": [{"role": "user", "content": "a b " * 4000}]},
            anthropic.BadRequestError,
            "tokens in the prompt, 4096 in the context",
        ),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
def test_errors_are_the_clients_own(
    claude: anthropic.Anthropic,
    fields: dict[str, Any],
    error: type[anthropic.APIStatusError],
    text: str,
    stream: bool,
) -> None:
    with pytest.raises(error) as caught:
        claude.messages.create(**{**ASK, **fields}, stream=stream)

    body: Any = caught.value.body
    assert text in body["error"]["message"]
    assert body["request_id"].startswith("req_")


def test_leaving_early_leaves_the_daemon_answering(claude: anthropic.Anthropic) -> None:
    with claude.messages.create(**{**ASK, "max_tokens": 4000}, stream=True) as stream:
        for event in stream:
            if event.type == "content_block_delta":
                break

    assert claude.messages.create(**{**ASK, "max_tokens": 1}).usage.output_tokens == 1
