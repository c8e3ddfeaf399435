"""Requests for completions."""

from __future__ import annotations

import json
from typing import Any

import pytest

from olla.api.openai_completions import completion_from_json
from olla.api.openai_fields import Asked
from olla.errors import BadInput
from olla.options import Options
from olla.requests import GenerateRequest

DEFAULTS = Options(temperature=1.0, top_p=1.0, frequency_penalty=0.0, presence_penalty=0.0)


def _asked(**fields: Any) -> Asked[GenerateRequest]:
    return completion_from_json(json.dumps({"model": "m", "prompt": "p"} | fields).encode())


def _request(**fields: Any) -> GenerateRequest:
    return GenerateRequest("m", stream=False, truncate=False, options=DEFAULTS, **fields)


def test_a_plain_request() -> None:
    assert _asked() == Asked((_request(prompt="p"),))


@pytest.mark.parametrize(
    ("prompt", "fields"),
    [
        (None, [{}]),
        ("", [{}]),
        (["a", "b"], [{"prompt": "a"}, {"prompt": "b"}]),
        ([1, 0, 2], [{"tokens": (1, 0, 2)}]),
        ([[1], [2, 3]], [{"tokens": (1,)}, {"tokens": (2, 3)}]),
        (["a", [1]], [{"prompt": "a"}, {"tokens": (1,)}]),
    ],
)
def test_a_prompt_is_text_or_tokens_or_several(prompt: object, fields: list[Any]) -> None:
    assert _asked(prompt=prompt).requests == tuple(_request(**item) for item in fields)


@pytest.mark.parametrize(
    ("prompt", "fields"),
    [("a", {"prompt": "a", "raw": True}), ([1], {"tokens": (1,)})],
)
def test_a_prompt_to_echo_is_used_as_it_is(prompt: object, fields: dict[str, Any]) -> None:
    assert _asked(prompt=prompt, echo=True).requests == (_request(echo=True, **fields),)


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        (1, "json: cannot unmarshal number 1"),
        ({}, "json: cannot unmarshal object"),
        ([], "prompt must hold from 1 to 128 prompts"),
        (["a"] * 129, "prompt must hold from 1 to 128 prompts"),
        ([[]], "prompt must be a text, texts, ids of tokens, or lists of such ids"),
        ([1, "a"], "prompt must be a text, texts, ids of tokens, or lists of such ids"),
        ([1.5], "prompt must be a text, texts, ids of tokens, or lists of such ids"),
        ([True], "prompt must be a text, texts, ids of tokens, or lists of such ids"),
        ([-1], "prompt must be a text, texts, ids of tokens, or lists of such ids"),
        ([2**31], "prompt must be a text, texts, ids of tokens, or lists of such ids"),
        ([None], "prompt must be a text, texts, ids of tokens, or lists of such ids"),
    ],
)
def test_any_other_prompt_is_refused(prompt: object, text: str) -> None:
    with pytest.raises(BadInput) as caught:
        _asked(prompt=prompt)

    assert text in str(caught.value)


def test_prompts_of_many_tokens_are_no_list_of_prompts() -> None:
    assert len(_asked(prompt=[1] * 1000).requests[0].tokens) == 1000


def test_prompts_have_choices() -> None:
    asked = _asked(prompt=["a", "b"], n=2, best_of=2, seed=1)

    assert [[item.options.seed for item in group] for group in asked.groups] == [[1, 2], [1, 2]]


@pytest.mark.parametrize(
    ("sent", "logprobs", "num_top"), [(None, False, 0), (0, True, 0), (1, True, 1), (20, True, 20)]
)
def test_logprobs_are_a_number(sent: int | None, logprobs: bool, num_top: int) -> None:
    request = _asked(logprobs=sent).requests[0]

    assert (request.logprobs, request.top_logprobs) == (logprobs, num_top)


def test_options_have_other_names_and_defaults() -> None:
    request = _asked(max_tokens=0, stop="x", top_p=0, temperature=0, suffix="s").requests[0]

    assert request.options == Options(
        temperature=0.0,
        top_p=1.0,
        frequency_penalty=0.0,
        presence_penalty=0.0,
        num_predict=0,
        stop=("x",),
    )
    assert request.suffix == "s"


@pytest.mark.parametrize(
    ("stop", "kind"),
    [
        (5, "float64"),
        (["a", 5], "float64"),
        ([None], "<nil>"),
        ([True], "bool"),
        ([[]], "[]interface {}"),
        ({}, "map[string]interface {}"),
    ],
)
def test_stops_are_texts(stop: object, kind: str) -> None:
    with pytest.raises(BadInput) as caught:
        _asked(stop=stop)

    assert str(caught.value) == f"invalid type for 'stop' field: {kind}"


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"best_of": 2}, "best_of is not supported by this server"),
        ({"best_of": 1, "n": 2}, "best_of is not supported by this server"),
        ({"logprobs": 21}, "logprobs must be between 0 and 20"),
        ({"logprobs": -1}, "logprobs must be between 0 and 20"),
        ({"logprobs": True}, "json: cannot unmarshal bool"),
        ({"echo": 1}, "json: cannot unmarshal number"),
        ({"suffix": 1}, "json: cannot unmarshal number"),
        ({"n": 65, "prompt": ["a", "b"]}, "n times the number of prompts must be at most 128"),
    ],
)
def test_what_cannot_be_answered_is_refused(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(BadInput) as caught:
        _asked(**fields)

    assert text in str(caught.value)
