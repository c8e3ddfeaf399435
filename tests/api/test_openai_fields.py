"""What OpenAI's requests for replies have in common."""

from __future__ import annotations

import json
from typing import Any

import pytest

from olla.api.json_fields import Fields
from olla.api.openai_fields import (
    MAX_CHOICES,
    Asked,
    common_fields,
    include_usage,
    num_choices,
    options,
    parse_body,
    refuse,
    think_of,
)
from olla.errors import BadInput, InvalidOption
from olla.options import Options
from olla.requests import InferenceRequest


def _fields(**values: Any) -> Fields:
    return parse_body(json.dumps(values).encode(), "X")


@pytest.mark.parametrize("body", [b"", b" \n"])
def test_no_body_is_told_as_openais_routes_do(body: bytes) -> None:
    with pytest.raises(BadInput) as caught:
        parse_body(body, "X")

    assert str(caught.value) == "EOF"


def test_nothing_is_streamed_or_cut_unless_asked_for() -> None:
    assert InferenceRequest(**common_fields(_fields(model="M"))) == InferenceRequest(
        model="M", stream=False, truncate=False
    )


def test_options_have_openais_default_temperature() -> None:
    assert options(_fields()) == Options(temperature=1.0)
    assert options(_fields(temperature=0)) == Options(temperature=0.0)


def test_options_are_taken_as_they_come() -> None:
    found = options(
        _fields(seed=3, frequency_penalty=0.5, presence_penalty=1, top_k=4), num_predict=7
    )

    assert found == Options(
        temperature=1.0, seed=3, frequency_penalty=0.5, presence_penalty=1.0, num_predict=7
    )


@pytest.mark.parametrize("name", ["temperature", "seed", "frequency_penalty", "presence_penalty"])
def test_an_option_is_a_number(name: str) -> None:
    with pytest.raises(InvalidOption, match=f'option "{name}" must be of type'):
        options(_fields(**{name: "x"}))


@pytest.mark.parametrize(("sent", "number"), [(None, 1), (1, 1), (MAX_CHOICES, MAX_CHOICES)])
def test_there_is_one_choice_unless_more_are_asked_for(sent: int | None, number: int) -> None:
    assert num_choices(_fields(n=sent)) == number


@pytest.mark.parametrize("number", [0, -1, MAX_CHOICES + 1, 10**6])
def test_the_choices_are_limited(number: int) -> None:
    with pytest.raises(BadInput, match="n must be from 1 to 128"):
        num_choices(_fields(n=number))


def test_the_choices_of_all_prompts_together_are_limited() -> None:
    request = InferenceRequest("m")
    Asked((request,) * 2, MAX_CHOICES // 2)

    with pytest.raises(BadInput, match="n times the number of prompts must be at most 128"):
        Asked((request,) * 3, MAX_CHOICES // 2)


@pytest.mark.parametrize(
    ("seed", "seeds"), [(5, [5, 6, 7]), (0, [0, 1, 2]), (None, [None] * 3), (-1, [-1] * 3)]
)
def test_choices_differ_in_their_seeds(seed: int | None, seeds: list[int | None]) -> None:
    asked = Asked((InferenceRequest("m", options=Options(seed=seed)),) * 2, 3)

    assert [[item.options.seed for item in group] for group in asked.groups] == [seeds, seeds]


def test_the_same_can_be_asked_of_another_model() -> None:
    asked = Asked((InferenceRequest("m"),), 2, include_usage=True)

    assert asked.of("x") == Asked((InferenceRequest("x"),), 2, include_usage=True)


@pytest.mark.parametrize(
    ("fields", "streams"),
    [
        ({"stream": True}, True),
        ({"stream": False}, False),
        ({"stream": True, "debug_render_only": True}, False),
    ],
)
def test_only_a_reply_is_streamed(fields: dict[str, Any], streams: bool) -> None:
    assert Asked((InferenceRequest("m", **fields),)).stream is streams


@pytest.mark.parametrize(
    ("sent", "wanted"),
    [(None, False), ({}, False), ({"include_usage": True}, True), ({"include_usage": None}, False)],
)
def test_usage_comes_in_streams_when_asked_for(sent: object, wanted: bool) -> None:
    assert include_usage(_fields(stream_options=sent)) is wanted


def test_a_bias_is_for_a_token() -> None:
    bias = {"5": -100, "60": 2.5, "0": 100}

    fields = common_fields(_fields(logit_bias=bias))

    assert fields["logit_bias"] == {5: -100.0, 60: 2.5, 0: 100.0}


@pytest.mark.parametrize(
    ("bias", "text"),
    [
        ({"x": 1}, 'the keys of logit_bias must be ids of tokens, which "x" is not'),
        ({"-1": 1}, 'which "-1" is not'),
        ({"1.5": 1}, 'which "1.5" is not'),
        ({"٣": 1}, 'which "٣" is not'),
        ({"9" * 5000: 1}, "the keys of logit_bias"),
        ({"5": 100.5}, "logit_bias of token 5 must be from -100 to 100"),
        ({"5": -101}, "logit_bias of token 5 must be from -100 to 100"),
        ({"5": "1"}, "logit_bias of token 5 must be from -100 to 100"),
        ({"5": True}, "logit_bias of token 5 must be from -100 to 100"),
        ({"5": None}, "logit_bias of token 5 must be from -100 to 100"),
        ({"5": 10**400}, "logit_bias of token 5 must be from -100 to 100"),
        ([5], "json: cannot unmarshal array"),
    ],
)
def test_a_bias_that_makes_no_sense_is_refused(bias: object, text: str) -> None:
    with pytest.raises(BadInput) as caught:
        common_fields(_fields(logit_bias=bias))

    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("effort", "think"),
    [
        ("", None),
        ("none", False),
        ("minimal", "low"),
        ("low", "low"),
        ("medium", "medium"),
        ("high", "high"),
        ("max", "max"),
        ("xhigh", "max"),
        ("ultra", "max"),
    ],
)
def test_efforts_are_ollamas_levels(effort: str, think: bool | str | None) -> None:
    assert think_of(effort) == think


def test_an_unknown_effort_is_refused() -> None:
    with pytest.raises(BadInput) as caught:
        think_of("x")

    assert str(caught.value) == (
        'invalid reasoning value: "x" (must be "minimal", "low", "medium", "high", "xhigh", '
        '"ultra", "max", or "none")'
    )


def test_a_field_is_refused_with_what_to_do_instead() -> None:
    with pytest.raises(BadInput) as caught:
        refuse(_fields(a=[1]), {"a": "use b"})

    assert str(caught.value) == "a is not supported by this server; use b"


@pytest.mark.parametrize("value", [None, "", 0, False, []])
def test_a_field_that_asks_for_nothing_is_not_refused(value: object) -> None:
    refuse(_fields(a=value), {"a": "use b"})
