"""Bodies of /v1/responses become requests, or are refused with a text that says what to do."""

from __future__ import annotations

import json
from typing import Any

import pytest

from olla.api.responses_requests import REFUSED, ResponsesRequest, responses_from_json
from olla.errors import BadInput, InvalidOption
from olla.messages import Message, Tool
from olla.options import Options
from olla.requests import ChatRequest, ToolChoice, ToolMode

SCHEMA = {"type": "object", "properties": {"x": {"type": "integer"}}}
TOOL = {"type": "function", "name": "f", "description": "d", "parameters": SCHEMA, "strict": True}
NAMESPACE = {
    "type": "namespace",
    "name": "mcp__git",
    "description": "",
    "tools": [{"type": "function", "name": "log", "parameters": SCHEMA}],
}
EARLIER = [{"role": "user", "content": "before"}, {"role": "assistant", "content": "yes"}]


def _recall(response_id: str) -> list[dict[str, Any]]:
    assert response_id == "resp_1"
    return EARLIER


def _read(**fields: Any) -> ResponsesRequest:
    body = {"model": "m", "input": "hi", **fields}
    return responses_from_json(json.dumps(body).encode(), _recall)


def _chat(**fields: Any) -> ChatRequest:
    return _read(**fields).chat


def test_a_bare_request_is_a_user_message_at_temperature_1() -> None:
    request = _read()

    chat = request.chat
    assert (chat.model, chat.stream, chat.think, chat.format) == ("m", False, None, None)
    assert chat.messages == (Message("user", "hi"),)
    assert chat.options == Options(temperature=1.0)
    assert (chat.logprobs, chat.top_logprobs) == (False, 0)
    assert request.items == ({"type": "message", "role": "user", "content": "hi"},)
    assert request.store


def test_what_is_set_is_passed_on() -> None:
    chat = _chat(temperature=0, top_p=0.5, max_output_tokens=7, stream=True, instructions="s")

    assert chat.options == Options(temperature=0.0, top_p=0.5, num_predict=7)
    assert chat.stream
    assert chat.messages[0] == Message("system", "s")


def test_the_prompt_is_cut_only_where_that_is_asked_for() -> None:
    assert [_chat(truncation=how).truncate for how in ("auto", "disabled", None)] == [
        True,
        False,
        False,
    ]
    assert [_chat(truncation=how).shift for how in ("auto", "disabled")] == [None, False]
    assert _chat(truncation="auto").keeps_messages_whole


def test_an_earlier_conversation_comes_first_without_its_instructions() -> None:
    request = _read(previous_response_id="resp_1", instructions="new")

    assert [m.content for m in request.chat.messages] == ["new", "before", "yes", "hi"]
    assert list(request.items[:2]) == EARLIER
    assert request.echo["previous_response_id"] == "resp_1"


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"model": None}, "model is required"),
        ({"input": None}, '"input" is required: a string or an array of items'),
        ({"input": []}, '"input" is required: a string or an array of items'),
        ({"input": ["x"]}, '"input" must be a string or an array of objects'),
        ({"max_output_tokens": 0}, '"max_output_tokens" must be positive'),
        ({"metadata": {"a": [1]}}, "cannot unmarshal array into Go struct field"),
        ({"top_logprobs": 21}, "top_logprobs must be between 0 and 20"),
        ({"reasoning": {"effort": "no"}}, 'invalid reasoning value: "no" (must be "minimal", '),
        ({"text": {"format": {"type": "xml"}}}, '"text.format" must have the type'),
        ({"text": {"format": {"type": "json_schema"}}}, '"text.format" must have the type'),
        ({"tools": [{"type": "file_search"}]}, 'tools of type "file_search" are not supported'),
        ({"tools": [{"type": "function"}]}, 'each function of "tools" needs a "name"'),
        ({"tools": [{"type": "namespace"}]}, 'each namespace of "tools" needs a "name"'),
        ({"tool_choice": "required"}, '"tool_choice" requires a tool, but "tools" is empty'),
        ({"tool_choice": "some"}, 'invalid tool_choice: "some"'),
        ({"tool_choice": {"type": "mcp"}}, 'a "tool_choice" of type "mcp" is not supported'),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "g"}}, '"g", which is not'),
    ],
)
def test_what_cannot_be_answered_is_refused(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(BadInput) as caught:
        _read(**fields)

    assert text in str(caught.value)


@pytest.mark.parametrize("name", REFUSED)
def test_what_only_openai_has_is_refused_by_name(name: str) -> None:
    with pytest.raises(BadInput, match=f"^{name} is not supported by this server; "):
        _read(**{name: {"id": "x"}})


def test_an_option_of_the_wrong_type_is_refused() -> None:
    with pytest.raises(InvalidOption, match="top_p"):
        _read(top_p="high")


@pytest.mark.parametrize(
    ("effort", "think"),
    [
        (None, None),
        ("", None),
        ("none", False),
        ("minimal", "low"),
        ("medium", "medium"),
        ("xhigh", "max"),
        ("ultra", "max"),
    ],
)
def test_effort_says_how_much_to_think(effort: str | None, think: object) -> None:
    assert _chat(reasoning={"effort": effort, "summary": "auto"}).think == think


@pytest.mark.parametrize(
    ("format", "expected"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, {"type": "object"}),
        ({"type": "json_schema", "name": "n", "schema": SCHEMA}, SCHEMA),
    ],
)
def test_a_format_binds_the_reply(format: dict[str, Any], expected: object) -> None:
    assert _chat(text={"format": format, "verbosity": "low"}).format == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"include": ["message.output_text.logprobs"]}, (True, 0)),
        ({"include": ["message.output_text.logprobs"], "top_logprobs": 3}, (True, 3)),
        ({"include": ["reasoning.encrypted_content"]}, (False, 0)),
    ],
)
def test_logprobs_come_where_they_are_wanted(
    fields: dict[str, Any], expected: tuple[bool, int]
) -> None:
    chat = _chat(**fields)

    assert (chat.logprobs, chat.top_logprobs) == expected


def test_the_functions_of_a_namespace_carry_its_name() -> None:
    request = _read(tools=[TOOL, NAMESPACE])

    assert request.chat.tools == (Tool("f", "d", SCHEMA), Tool("mcp__git.log", "", SCHEMA))
    assert request.namespaces == {"mcp__git.log": ("mcp__git", "log")}
    assert request.echo["tools"] == [TOOL, NAMESPACE]


@pytest.mark.parametrize("kind", ["web_search", "web_search_preview", "web_search_2025_08_26"])
def test_searching_the_web_is_a_function_that_the_client_answers(kind: str) -> None:
    own = {**TOOL, "name": "web_search"}

    tools = _chat(tools=[own, {"type": kind}, {"type": kind}]).tools

    assert [tool.name for tool in tools] == ["web_search"]
    assert tools[0].parameters["required"] == ["query"]


@pytest.mark.parametrize(
    ("choice", "expected", "offered"),
    [
        (None, ToolChoice(), ["f", "mcp__git.log"]),
        ("none", ToolChoice(ToolMode.NONE), ["f", "mcp__git.log"]),
        ("required", ToolChoice(ToolMode.REQUIRED), ["f", "mcp__git.log"]),
        (
            {"type": "function", "name": "f"},
            ToolChoice(ToolMode.REQUIRED, "f"),
            ["f", "mcp__git.log"],
        ),
        (
            {"type": "function", "namespace": "mcp__git", "name": "log"},
            ToolChoice(ToolMode.REQUIRED, "mcp__git.log"),
            ["f", "mcp__git.log"],
        ),
        (
            {
                "type": "allowed_tools",
                "mode": "required",
                "tools": [{"type": "function", "name": "f"}],
            },
            ToolChoice(ToolMode.REQUIRED),
            ["f"],
        ),
    ],
)
def test_a_choice_of_tools_is_honoured(
    choice: object, expected: ToolChoice, offered: list[str]
) -> None:
    chat = _chat(tools=[TOOL, NAMESPACE], tool_choice=choice)

    assert chat.tool_choice == expected
    assert [tool.name for tool in chat.tools] == offered


def test_calls_may_be_kept_to_one_at_a_time() -> None:
    choice = _chat(tools=[TOOL], parallel_tool_calls=False).tool_choice

    assert choice == ToolChoice(parallel=False)


def test_the_reply_repeats_what_was_asked() -> None:
    asked = {
        "instructions": "s",
        "metadata": {"a": "b"},
        "max_output_tokens": 5,
        "max_tool_calls": 2,
        "temperature": 0.5,
        "truncation": "auto",
        "parallel_tool_calls": False,
        "prompt_cache_key": "k",
        "tool_choice": "none",
        "reasoning": {"effort": "low", "summary": "auto"},
        "store": False,
    }

    request = _read(**asked)

    assert {name: request.echo[name] for name in asked} == asked
    assert not request.store
    assert request.echo["text"] == {"format": {"type": "text"}}
    assert (request.echo["top_p"], request.echo["background"]) == (1.0, False)
