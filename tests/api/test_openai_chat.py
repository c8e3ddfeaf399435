"""Requests for chat completions."""

from __future__ import annotations

import json
from typing import Any

import pytest

from olla.api.openai_chat import chat_from_json
from olla.api.openai_fields import Asked
from olla.errors import BadInput
from olla.messages import Message, Tool
from olla.options import Options
from olla.requests import ChatRequest, ToolChoice, ToolMode

HI = {"role": "user", "content": "Hi"}
DEFAULTS = Options(temperature=1.0, top_p=1.0)


def _asked(**fields: Any) -> Asked[ChatRequest]:
    return chat_from_json(json.dumps({"model": "m", "messages": [HI]} | fields).encode())


def _read(**fields: Any) -> ChatRequest:
    return _asked(**fields).requests[0]


def test_a_plain_request() -> None:
    assert _asked() == Asked(
        (
            ChatRequest(
                "m",
                stream=False,
                truncate=False,
                options=DEFAULTS,
                messages=(Message("user", "Hi"),),
            ),
        )
    )


def test_choices_and_usage_are_asked_for() -> None:
    asked = _asked(n=3, stream=True, stream_options={"include_usage": True})

    assert (asked.num_choices, asked.include_usage, asked.stream) == (3, True, True)


@pytest.mark.parametrize(
    ("fields", "limit"),
    [
        ({}, None),
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 6}, 6),
        ({"max_tokens": 5, "max_completion_tokens": 6}, 6),
        ({"max_tokens": 5, "max_completion_tokens": None}, 5),
        ({"max_tokens": 5, "max_completion_tokens": 0}, 0),
    ],
)
def test_the_newer_limit_wins(fields: dict[str, Any], limit: int | None) -> None:
    assert _read(**fields).options.num_predict == limit


@pytest.mark.parametrize(
    ("stop", "texts"),
    [
        (None, None),
        ("a", ("a",)),
        (["a", "b"], ("a", "b")),
        (["a", 1, None], ("a",)),
        (5, None),
    ],
)
def test_stops_that_are_no_texts_are_skipped(stop: object, texts: tuple[str] | None) -> None:
    assert _read(stop=stop).options.stop == texts


def test_top_p_is_taken_as_it_comes() -> None:
    assert _read(top_p=0).options.top_p == 0.0
    assert _read(top_p=0.5).options.top_p == 0.5


@pytest.mark.parametrize(
    ("fields", "think"),
    [
        ({}, None),
        ({"reasoning_effort": "high"}, "high"),
        ({"reasoning": {"effort": "none"}}, False),
        ({"reasoning": {"effort": "low"}, "reasoning_effort": "high"}, "low"),
        ({"reasoning": {"effort": ""}, "reasoning_effort": "high"}, "high"),
        ({"reasoning": {}, "reasoning_effort": None}, None),
    ],
)
def test_the_nested_effort_wins(fields: dict[str, Any], think: object) -> None:
    assert _read(**fields).think == think


@pytest.mark.parametrize(
    ("wanted", "schema"),
    [
        (None, None),
        ({"type": "text"}, None),
        ({"type": "grammar"}, None),
        ({"type": "json_object"}, {"type": "object"}),
        ({"type": " JSON_Object "}, {"type": "object"}),
        ({"type": "json_schema", "json_schema": {"schema": {"type": "array"}}}, {"type": "array"}),
        ({"type": "json_schema", "json_schema": {"schema": {}}}, {}),
    ],
)
def test_the_format_is_a_schema(wanted: object, schema: object) -> None:
    assert _read(response_format=wanted).format == schema


@pytest.mark.parametrize(
    ("fields", "logprobs", "num_top"),
    [
        ({}, False, 0),
        ({"logprobs": True}, True, 0),
        ({"logprobs": True, "top_logprobs": 20}, True, 20),
        ({"logprobs": False, "top_logprobs": 0}, False, 0),
    ],
)
def test_logprobs_are_asked_for(fields: dict[str, Any], logprobs: bool, num_top: int) -> None:
    request = _read(**fields)

    assert (request.logprobs, request.top_logprobs) == (logprobs, num_top)


def test_tools_are_on_offer() -> None:
    request = _read(tools=[{"function": {"name": "f"}}], tool_choice="required")

    assert request.tools == (Tool("f"),)
    assert request.tool_choice == ToolChoice(ToolMode.REQUIRED)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"messages": []}, "[] is too short - 'messages'"),
        ({"reasoning_effort": "x"}, 'invalid reasoning value: "x" (must be'),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs must be between 0 and 20"),
        ({"top_logprobs": -1, "logprobs": True}, "top_logprobs must be between 0 and 20"),
        ({"top_logprobs": 1}, "top_logprobs needs logprobs to be true"),
        ({"n": 10**6}, "n must be from 1 to 128"),
        ({"functions": [{"name": "f"}]}, "functions is not supported by this server; use tools"),
        ({"function_call": "auto"}, "use tool_choice"),
        ({"audio": {"voice": "x"}}, "audio is not supported by this server; replies are text"),
        ({"moderation": {"model": "x"}}, "moderation is not supported"),
        ({"web_search_options": {"a": 1}}, "web_search_options is not supported"),
        ({"web_search_options": {}}, "web_search_options is not supported"),
        ({"modalities": ["text", "audio"]}, 'modalities other than "text" are not supported'),
        ({"response_format": {"type": "json_schema"}}, "needs json_schema.schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": 1}}}, "json: "),
        ({"response_format": "json_object"}, "json: cannot unmarshal string"),
        ({"max_tokens": "5"}, "json: cannot unmarshal string"),
        ({"max_completion_tokens": 1.5}, "json: cannot unmarshal number"),
        ({"max_tokens": 2**63}, "json: cannot unmarshal number"),
        ({"logprobs": 5}, "json: cannot unmarshal number"),
        ({"stream": "yes"}, "json: cannot unmarshal string"),
        ({"stream_options": True}, "json: cannot unmarshal bool"),
        ({"reasoning": "high"}, "json: cannot unmarshal string"),
        ({"temperature": "hot"}, 'option "temperature" must be of type float32'),
        ({"top_p": []}, 'option "top_p" must be of type float32'),
    ],
)
def test_what_cannot_be_answered_is_refused(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(BadInput) as caught:
        _asked(**fields)

    assert text in str(caught.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"user": "u", "metadata": {"a": "b"}, "store": True, "service_tier": "auto"},
        {"prediction": {"type": "content", "content": "x"}, "verbosity": "low"},
        {"safety_identifier": "x", "prompt_cache_key": "x", "modalities": ["text"]},
        {"keep_alive": 0, "options": {"num_ctx": 1}, "unknown": 1},
    ],
)
def test_what_a_reply_is_right_without_is_ignored(fields: dict[str, Any]) -> None:
    assert _asked(**fields) == _asked()


def test_a_prompt_can_be_rendered_only() -> None:
    assert _read(_debug_render_only=True).debug_render_only
