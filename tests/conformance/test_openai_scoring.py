"""The official OpenAI client scores tokens, as evaluation harnesses do, and sways them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import ollama
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from tests.conformance.conftest import MODEL
from tests.conformance.daemon import Daemon

pytestmark = pytest.mark.weights

MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Why is the sky blue?"}]
GREEDY: dict[str, Any] = {"model": MODEL, "temperature": 0, "seed": 1, "max_tokens": 6}
PROMPT = "The capital of France is"


@pytest.fixture(scope="module")
def api(daemon: Daemon, client: ollama.Client) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="any", max_retries=0) as api:
        yield api


def _tokens(client: ollama.Client) -> list[int]:
    """The ids of PROMPT, template and all."""
    native = client.generate(MODEL, PROMPT, options={"num_predict": 1, "temperature": 0})
    assert native.context is not None
    return list(native.context[:-1])


@pytest.mark.parametrize("stream", [True, False])
def test_every_token_of_a_chat_has_a_logprob(api: openai.OpenAI, stream: bool) -> None:
    options = {**GREEDY, "logprobs": True, "top_logprobs": 3, "stream": stream}

    reply: Any = api.chat.completions.create(messages=MESSAGES, **options)

    choices = [chunk.choices[0] for chunk in reply] if stream else reply.choices
    tokens = [token for c in choices if c.logprobs for token in c.logprobs.content]
    deltas = [choice.delta if stream else choice.message for choice in choices]
    assert len(tokens) == 6
    assert "".join(token.token for token in tokens) == "".join(d.content or "" for d in deltas)
    for token in tokens:
        assert bytes(token.bytes).decode() == token.token
        assert [top.logprob for top in token.top_logprobs] == sorted(
            (top.logprob for top in token.top_logprobs), reverse=True
        )
        assert len(token.top_logprobs) == 3
        assert token.logprob == pytest.approx(token.top_logprobs[0].logprob)  # it is greedy
        assert token.logprob <= 0


def test_without_being_asked_for_there_are_none(api: openai.OpenAI) -> None:
    reply = api.chat.completions.create(messages=MESSAGES, **GREEDY)

    assert reply.choices[0].logprobs is None


def test_a_prompt_is_scored_as_a_harness_wants_it(
    api: openai.OpenAI, client: ollama.Client
) -> None:
    prompt = _tokens(client)

    reply = api.completions.create(
        prompt=[prompt, prompt[:-2]], echo=True, logprobs=1, **GREEDY | {"max_tokens": 1}
    )

    for choice, length in zip(reply.choices, (len(prompt), len(prompt) - 2), strict=True):
        scores: Any = choice.logprobs
        assert len(scores.tokens) == length + 1
        assert len(scores.text_offset) == len(scores.top_logprobs) == length + 1
        assert (scores.token_logprobs[0], scores.top_logprobs[0]) == (None, None)
        assert all(logprob <= 0 for logprob in scores.token_logprobs[1:])
        for logprob, top in zip(scores.token_logprobs[1:], scores.top_logprobs[1:], strict=True):
            assert logprob <= max(top.values())
            assert logprob in top.values()
    first, second = ([*c.logprobs.token_logprobs] for c in reply.choices if c.logprobs)
    assert first[1 : len(prompt) - 2] == pytest.approx(second[1:-1], abs=1e-3)


def test_a_prompt_may_be_scored_without_a_reply(api: openai.OpenAI, client: ollama.Client) -> None:
    prompt = _tokens(client)

    reply = api.completions.create(
        prompt=prompt, echo=True, logprobs=0, **GREEDY | {"max_tokens": 0}
    )

    scores: Any = reply.choices[0].logprobs
    assert len(scores.tokens) == len(prompt)
    assert reply.choices[0].finish_reason == "length"
    assert reply.usage is not None and reply.usage.completion_tokens == 0


def test_a_text_to_echo_is_used_as_it_is(api: openai.OpenAI) -> None:
    reply = api.completions.create(prompt=PROMPT, echo=True, logprobs=2, **GREEDY)

    text, scores = reply.choices[0].text, reply.choices[0].logprobs
    assert text.startswith(PROMPT) and "Paris" in text
    assert scores is not None and scores.tokens is not None and scores.text_offset is not None
    assert "".join(scores.tokens) == text
    for token, offset in zip(scores.tokens, scores.text_offset, strict=True):
        assert text[offset : offset + len(token)] == token


@pytest.mark.parametrize("stream", [True, False])
def test_an_echo_comes_first(api: openai.OpenAI, stream: bool) -> None:
    plain = api.completions.create(prompt=PROMPT, echo=True, **GREEDY).choices[0].text

    reply: Any = api.completions.create(prompt=PROMPT, echo=True, stream=stream, **GREEDY)

    chunks = reply if stream else [reply]
    assert "".join(chunk.choices[0].text for chunk in chunks) == plain
    assert plain.startswith(PROMPT) and len(plain) > len(PROMPT)


def test_a_bias_bans_a_token(api: openai.OpenAI, client: ollama.Client) -> None:
    native = client.generate(MODEL, PROMPT, options={"num_predict": 1, "temperature": 0})
    assert native.context is not None
    banned = native.context[-1]

    free = api.completions.create(prompt=_tokens(client), **GREEDY | {"max_tokens": 1})
    biased = api.completions.create(
        prompt=_tokens(client), logit_bias={str(banned): -100}, **GREEDY | {"max_tokens": 1}
    )

    assert free.choices[0].text == native.response
    assert biased.choices[0].text != native.response


def test_a_bias_for_what_is_no_token_is_refused(api: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="999999999"):
        api.chat.completions.create(messages=MESSAGES, logit_bias={"999999999": 1}, **GREEDY)


def test_what_the_cache_had_of_a_prompt_is_told(api: openai.OpenAI) -> None:
    for _ in range(2):
        reply = api.chat.completions.create(messages=MESSAGES, **GREEDY)

    assert reply.usage is not None and reply.usage.prompt_tokens_details is not None
    assert reply.usage.prompt_tokens == 36
    assert reply.usage.prompt_tokens_details.cached_tokens == 32  # whole blocks of 16


def test_a_choice_is_scored_under_its_own_number(api: openai.OpenAI) -> None:
    options = {**GREEDY, "temperature": 1.5, "n": 2, "logprobs": True}

    reply = api.chat.completions.create(messages=MESSAGES, **options)

    for choice in reply.choices:
        assert choice.logprobs is not None and choice.logprobs.content is not None
        text = "".join(token.token for token in choice.logprobs.content)
        assert text.startswith(choice.message.content or "?")
        assert math.isfinite(sum(token.logprob for token in choice.logprobs.content))
