"""The official OpenAI client finds in olla what it finds behind OpenAI's routes of Ollama."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import ollama
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from tests.conformance.conftest import MODEL
from tests.conformance.daemon import Daemon
from tests.server.test_compression import pack

pytestmark = pytest.mark.weights

MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Why is the sky blue?"}]
GREEDY: dict[str, Any] = {"model": MODEL, "temperature": 0, "seed": 1, "max_tokens": 8}


@pytest.fixture(scope="module")
def api(daemon: Daemon, client: ollama.Client) -> Iterator[openai.OpenAI]:
    """The client, on a daemon that has the model; a key is needed and not looked at."""
    with openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="any", max_retries=0) as api:
        yield api


@pytest.fixture(scope="module")
def answer(api: openai.OpenAI) -> str:
    """What the model says to MESSAGES."""
    reply = api.chat.completions.create(messages=MESSAGES, **GREEDY)
    return reply.choices[0].message.content or ""


def test_a_chat(api: openai.OpenAI, client: ollama.Client, answer: str) -> None:
    reply = api.chat.completions.create(messages=MESSAGES, **GREEDY)

    (choice,) = reply.choices
    native = client.chat(
        MODEL,
        [{"role": "user", "content": "Why is the sky blue?"}],
        options={"temperature": 0, "num_predict": 8},
    )
    assert choice.message.content == answer == native.message.content
    assert (choice.index, choice.finish_reason, choice.message.role) == (0, "length", "assistant")
    assert (reply.object, reply.model) == ("chat.completion", MODEL)
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (36, 8)
    assert reply.usage.total_tokens == 44
    assert reply.usage.prompt_tokens_details is not None
    assert reply.usage.completion_tokens_details is not None
    assert reply.usage.completion_tokens_details.reasoning_tokens == 0


def test_a_chat_streams_what_it_gives_whole(api: openai.OpenAI, answer: str) -> None:
    options = {**GREEDY, "stream_options": {"include_usage": True}}

    *chunks, last = api.chat.completions.create(messages=MESSAGES, stream=True, **options)

    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert "".join(delta.content or "" for delta in deltas) == answer
    assert [delta.role for delta in deltas] == ["assistant", *[None] * (len(deltas) - 1)]
    assert [chunk.choices[0].finish_reason for chunk in chunks][-2:] == [None, "length"]
    assert len({chunk.id for chunk in (*chunks, last)}) == 1
    assert all(chunk.usage is None for chunk in chunks)
    assert last.choices == [] and last.usage is not None
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (36, 8)


def test_the_clients_own_accumulation_of_a_stream(api: openai.OpenAI, answer: str) -> None:
    stop = answer.split()[3]
    with api.chat.completions.stream(messages=MESSAGES, stop=stop, **GREEDY) as stream:
        completion = stream.get_final_completion()

    assert completion.choices[0].message.content == answer[: answer.index(stop)]
    assert completion.choices[0].finish_reason == "stop"


async def test_the_asynchronous_client(daemon: Daemon, answer: str) -> None:
    async with openai.AsyncOpenAI(base_url=f"{daemon.url}/v1", api_key="any") as api:
        whole = await api.chat.completions.create(messages=MESSAGES, **GREEDY)
        stream = await api.chat.completions.create(messages=MESSAGES, stream=True, **GREEDY)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    assert whole.choices[0].message.content == text == answer


def test_messages_may_come_in_parts_and_from_a_developer(api: openai.OpenAI) -> None:
    plain: list[ChatCompletionMessageParam] = [{"role": "system", "content": "Be brief."}]
    parted: list[ChatCompletionMessageParam] = [
        {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]}
    ]

    replies = [
        api.chat.completions.create(messages=[*start, *MESSAGES], **GREEDY)
        for start in (plain, parted)
    ]

    first, second = (reply.choices[0].message.content for reply in replies)
    assert first == second


def test_a_tool_loop_may_be_replayed(api: openai.OpenAI) -> None:
    function = {"name": "add", "arguments": '{"a": 1, "b": 2}'}
    messages: Any = [
        *MESSAGES,
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c1", "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "3"},
    ]

    reply = api.chat.completions.create(messages=messages, **GREEDY)

    assert reply.choices[0].finish_reason == "length"


def test_choices_differ_and_the_first_is_what_one_alone_is(api: openai.OpenAI) -> None:
    options = {**GREEDY, "temperature": 1.5, "seed": 11}

    one = api.chat.completions.create(messages=MESSAGES, **options)
    three = api.chat.completions.create(messages=MESSAGES, n=3, **options)

    texts = [choice.message.content for choice in three.choices]
    assert [choice.index for choice in three.choices] == [0, 1, 2]
    assert texts[0] == one.choices[0].message.content
    assert len(set(texts)) == 3
    assert three.usage is not None
    assert (three.usage.prompt_tokens, three.usage.completion_tokens) == (36, 24)


def test_choices_stream_side_by_side(api: openai.OpenAI) -> None:
    options = {**GREEDY, "temperature": 1.5, "seed": 11, "n": 2}
    whole = api.chat.completions.create(messages=MESSAGES, **options)

    texts = {0: "", 1: ""}
    order = []
    for chunk in api.chat.completions.create(messages=MESSAGES, stream=True, **options):
        (choice,) = chunk.choices
        texts[choice.index] += choice.delta.content or ""
        order.append(choice.index)

    assert [texts[0], texts[1]] == [choice.message.content for choice in whole.choices]
    assert len(list(itertools.groupby(order))) > 2


def test_the_same_seed_gives_the_same_text(api: openai.OpenAI) -> None:
    texts = [
        api.completions.create(**{**GREEDY, "prompt": "Once", "temperature": 1.2, "seed": seed})
        .choices[0]
        .text
        for seed in (42, 42, 43)
    ]

    assert texts[0] == texts[1] != texts[2]


def test_the_newer_limit_wins(api: openai.OpenAI) -> None:
    reply = api.chat.completions.create(messages=MESSAGES, max_completion_tokens=3, **GREEDY)

    assert reply.usage is not None and reply.usage.completion_tokens == 3


def test_a_completion(api: openai.OpenAI, answer: str) -> None:
    reply = api.completions.create(prompt="Why is the sky blue?", **GREEDY)

    (choice,) = reply.choices
    assert (choice.text, choice.index, choice.finish_reason) == (answer, 0, "length")
    assert reply.object == "text_completion"
    assert reply.usage is not None and reply.usage.total_tokens == 44


def test_a_completion_streams_what_it_gives_whole(api: openai.OpenAI, answer: str) -> None:
    options = {**GREEDY, "stream_options": {"include_usage": True}}

    *chunks, last = api.completions.create(prompt="Why is the sky blue?", stream=True, **options)

    assert "".join(chunk.choices[0].text for chunk in chunks) == answer
    assert last.choices == [] and last.usage is not None and last.usage.total_tokens == 44


def test_several_prompts_at_once(api: openai.OpenAI, answer: str) -> None:
    prompts = ["Why is the sky blue?", "Name three colours."]

    reply = api.completions.create(prompt=prompts, n=2, **GREEDY)

    assert [choice.index for choice in reply.choices] == [0, 1, 2, 3]
    texts = [choice.text for choice in reply.choices]
    assert texts[0] == texts[1] == answer
    assert texts[2] == texts[3] != answer


def test_a_prompt_of_tokens_is_used_as_it_is(api: openai.OpenAI, client: ollama.Client) -> None:
    native = client.generate(
        MODEL, "The capital of France is", options={"temperature": 0, "num_predict": 8}
    )
    assert native.context is not None

    reply = api.completions.create(prompt=list(native.context[:-8]), **GREEDY)

    assert reply.choices[0].text == native.response
    assert reply.usage is not None
    assert reply.usage.prompt_tokens == native.prompt_eval_count


def test_a_client_that_closes_a_stream_early_leaves_no_mess(
    api: openai.OpenAI, answer: str
) -> None:
    options = {**GREEDY, "max_tokens": 2000, "n": 3}
    with api.chat.completions.create(messages=MESSAGES, stream=True, **options) as stream:
        next(iter(stream))

    reply = api.chat.completions.create(messages=MESSAGES, **GREEDY)

    assert reply.choices[0].message.content == answer


def test_models(api: openai.OpenAI, client: ollama.Client) -> None:
    client.copy(MODEL, "someone/copy:v1")
    try:
        listed = {model.id: model for model in api.models.list()}
        found = api.models.retrieve("someone/copy:v1")
    finally:
        client.delete("someone/copy:v1")

    assert listed[MODEL].owned_by == "library"
    assert found == listed["someone/copy:v1"]
    assert (found.object, found.owned_by) == ("model", "someone")
    assert found.created > 0


@pytest.mark.parametrize("call", ["chat", "completion", "model"])
def test_a_model_that_is_not_there(api: openai.OpenAI, call: str) -> None:
    with pytest.raises(openai.NotFoundError, match="not found") as caught:
        if call == "chat":
            api.chat.completions.create(model="no-such-model", messages=MESSAGES)
        elif call == "completion":
            api.completions.create(model="no-such-model", prompt="Hi")
        else:
            api.models.retrieve("no-such-model")

    assert caught.value.type == "not_found_error"


@pytest.mark.parametrize(
    "options",
    [
        {"messages": []},
        {"n": 10**6},
        {"tool_choice": "required"},
        {"logit_bias": {"x": 1}},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "http://x"}]}]},
        {"functions": [{"name": "f"}]},
        {"temperature": "hot"},
    ],
)  # fmt: skip
def test_a_bad_request(api: openai.OpenAI, options: dict[str, Any]) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        api.chat.completions.create(**{"model": MODEL, "messages": MESSAGES} | options)

    assert caught.value.type == "invalid_request_error"


@pytest.mark.parametrize("stream", [True, False])
def test_a_prompt_that_is_too_long_is_not_cut(api: openai.OpenAI, stream: bool) -> None:
    messages: Any = [{"role": "user", "content": "long " * 9000}, *MESSAGES]

    with pytest.raises(openai.BadRequestError, match="longer than the context") as caught:
        api.chat.completions.create(messages=messages, stream=stream, **GREEDY)

    assert caught.value.code == "context_length_exceeded"


def test_a_body_may_be_packed(daemon: Daemon, client: ollama.Client, answer: str) -> None:
    body = pack(json.dumps({**GREEDY, "messages": MESSAGES}).encode())

    reply = daemon.ask("POST", "/v1/chat/completions", body, {"Content-Encoding": "zstd"})

    assert reply.json["choices"][0]["message"]["content"] == answer


def test_what_is_sent_is_events(daemon: Daemon, client: ollama.Client) -> None:
    body = {**GREEDY, "messages": MESSAGES, "stream": True}

    status, text = daemon.ask("POST", "/v1/chat/completions", body)

    *events, last, end = text.split(b"\n\n")
    assert (status, last, end) == (200, b"data: [DONE]", b"")
    assert all(json.loads(event.removeprefix(b"data: "))["id"] for event in events)
