"""Bodies of /v1/messages become requests, or are refused with a text that says what to do."""

from __future__ import annotations

import json
from typing import Any

import pytest

from olla.api.anthropic_requests import (
    REFUSED,
    MessagesRequest,
    count_from_json,
    messages_from_json,
)
from olla.errors import BadInput, InvalidOption
from olla.messages import Tool
from olla.options import Options
from olla.requests import ChatRequest, ToolChoice, ToolMode

SCHEMA = {"type": "object", "properties": {"x": {"type": "integer", "minimum": 1}}}
TOOLS = [
    {"name": "f", "description": "d", "input_schema": SCHEMA},
    {"name": "g", "input_schema": {}},
]
USER = [{"role": "user", "content": "hi"}]


def _read(**fields: Any) -> MessagesRequest:
    body = {"model": "m", "max_tokens": 9, "messages": USER, **fields}
    return messages_from_json(json.dumps(body).encode())


def _chat(**fields: Any) -> ChatRequest:
    return _read(**fields).chat


def test_a_bare_request_leaves_everything_to_the_model() -> None:
    chat = _chat()

    assert (chat.model, chat.stream, chat.think, chat.format) == ("m", False, None, None)
    assert chat.options == Options(num_predict=9)
    assert (chat.tools, chat.tool_choice) == ((), ToolChoice())


def test_nothing_is_cut_in_silence() -> None:
    chat = _chat()

    assert (chat.truncate, chat.shift) == (False, False)


def test_what_is_set_is_passed_on() -> None:
    chat = _chat(temperature=0.5, top_p=0.25, top_k=3, stop_sequences=["a", "b"], stream=True)

    options = Options(num_predict=9, temperature=0.5, top_p=0.25, top_k=3, stop=("a", "b"))
    assert (chat.options, chat.stream) == (options, True)


@pytest.mark.parametrize(
    "ignored",
    [
        {"metadata": {"user_id": "u"}},
        {"service_tier": "auto"},
        {"cache_control": {"type": "ephemeral"}},
        {"context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}},
        {"betas": ["x"], "no_version_knows": 1},
    ],
)
def test_what_changes_nothing_is_ignored(ignored: dict[str, Any]) -> None:
    assert _read(**ignored) == _read()


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"model": ""}, "model is required"),
        ({"max_tokens": 0}, "max_tokens is required and must be positive"),
        ({"max_tokens": None}, "max_tokens is required and must be positive"),
        ({"max_tokens": -1}, "max_tokens is required and must be positive"),
        ({"messages": []}, "messages is required"),
        ({"messages": None}, "messages is required"),
        ({"output_config": {"effort": "no"}}, 'invalid output_config.effort: "no"'),
        ({"output_config": {"format": {"type": "xml"}}}, '"format" must have the type'),
        ({"output_format": {"type": "json_schema"}}, '"output_format" must have the type'),
        ({"tools": [{"type": "web_search_20250305"}]}, '"web_search_20250305" are not supported'),
        ({"tools": [{"input_schema": {}}]}, 'each of "tools" needs a "name"'),
        ({"tools": [{"name": "x"}]}, 'invalid input_schema for tool "x": it must be an object'),
        ({"tool_choice": {"type": "any"}}, '"tool_choice" requires a tool, but "tools" is empty'),
        ({"tools": TOOLS, "tool_choice": {"type": "some"}}, 'invalid tool_choice: "some"'),
        ({"tools": TOOLS, "tool_choice": {"type": "tool"}}, 'needs a "name"'),
        ({"tools": TOOLS, "tool_choice": {"type": "tool", "name": "h"}}, '"h", which is not among'),
    ],
)
def test_what_cannot_be_answered_is_refused(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(BadInput) as caught:
        _read(**fields)

    assert text in str(caught.value)


@pytest.mark.parametrize("name", REFUSED)
def test_what_only_anthropic_has_is_refused_by_name(name: str) -> None:
    with pytest.raises(BadInput, match=f"^{name} is not supported by this server; "):
        _read(**{name: [{"id": "x"}]})


def test_an_option_of_the_wrong_type_is_refused() -> None:
    with pytest.raises(InvalidOption, match="temperature"):
        _read(temperature="hot")


@pytest.mark.parametrize(
    ("thinking", "effort", "think"),
    [
        (None, None, None),
        ({"type": "enabled", "budget_tokens": 1024}, "low", True),
        ({"type": "disabled"}, "low", False),
        ({"type": "adaptive"}, None, None),
        ({"type": "adaptive"}, "low", "low"),
        ({"type": "adaptive"}, "xhigh", "high"),
        (None, "max", "max"),
    ],
)
def test_thinking_is_as_its_type_says_and_else_as_the_effort(
    thinking: object, effort: str | None, think: object
) -> None:
    chat = _chat(thinking=thinking, output_config={"effort": effort})

    assert chat.think == think
    assert chat.think_if_able


def test_thinking_may_be_kept_from_the_reply() -> None:
    assert _read().shows_thinking
    assert not _read(thinking={"type": "adaptive", "display": "omitted"}).shows_thinking


@pytest.mark.parametrize("place", ["output_config", "output_format"])
def test_a_schema_binds_the_reply(place: str) -> None:
    wanted = {"type": "json_schema", "schema": SCHEMA}

    chat = _chat(**{place: {"format": wanted} if place == "output_config" else wanted})

    assert chat.format == SCHEMA


def test_tools_keep_all_of_their_schemas() -> None:
    assert _chat(tools=TOOLS).tools == (Tool("f", "d", SCHEMA), Tool("g"))
    assert _chat(tools=[{**TOOLS[0], "type": "custom", "strict": True}]).tools[0].name == "f"


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"type": "auto"}, ToolChoice()),
        ({"type": "any"}, ToolChoice(ToolMode.REQUIRED)),
        ({"type": "tool", "name": "g"}, ToolChoice(ToolMode.REQUIRED, "g")),
        ({"type": "none"}, ToolChoice(ToolMode.NONE)),
        ({"type": "auto", "disable_parallel_tool_use": True}, ToolChoice(parallel=False)),
    ],
)
def test_a_choice_of_tools_is_honoured(choice: dict[str, Any], expected: ToolChoice) -> None:
    assert _chat(tools=TOOLS, tool_choice=choice).tool_choice == expected


def test_counting_reads_the_same_prompt_and_needs_no_max_tokens() -> None:
    body = {"model": "m", "messages": USER, "system": "s", "tools": TOOLS}

    counted = count_from_json(json.dumps(body).encode())

    chat = _chat(system="s", tools=TOOLS)
    assert (counted.messages, counted.tools) == (chat.messages, chat.tools)
    assert counted.truncate is False
    with pytest.raises(BadInput, match="model is required"):
        count_from_json(b"{}")
    with pytest.raises(BadInput, match="messages is required"):
        count_from_json(b'{"model": "m"}')


def test_a_request_like_claude_codes_is_read() -> None:
    cached = {"cache_control": {"type": "ephemeral"}}
    request = _read(
        system=[
            {"type": "text", "text": "You code."},
            {"type": "text", "text": " Well.", **cached},
        ],
        thinking={"type": "adaptive"},
        context_management={"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        metadata={"user_id": "x"},
        tools=[{"name": "Read", "description": "d", "input_schema": SCHEMA, **cached}],
        stream=True,
        messages=[
            {"role": "user", "content": [{"type": "text", "text": "Fix it.", **cached}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "sig_1"},
                    {"type": "text", "text": "I look."},
                    {"type": "tool_use", "id": "t1", "name": "Read", "input": {"x": 1}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Go on."},
                    {
                        "type": "tool_result",
                        "tool_use_id": "t1",
                        "content": [{"type": "text", "text": "1: a"}],
                        **cached,
                    },
                ],
            },
        ],
    )

    messages = request.chat.messages
    assert [m.role for m in messages] == ["system", "user", "assistant", "tool", "user"]
    assert messages[0].content == "You code. Well."
    assert (messages[2].thinking, messages[2].content) == ("hm", "I look.")
    assert messages[2].tool_calls[0].arguments == {"x": 1}
    result = messages[3]
    assert (result.content, result.tool_call_id, result.tool_name) == ("1: a", "t1", "Read")
