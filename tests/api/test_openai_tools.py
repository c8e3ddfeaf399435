"""Tools of chat completions, and the choice among them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from olla.api.openai_fields import parse_body
from olla.api.openai_tools import tools_of
from olla.errors import BadInput
from olla.messages import Tool
from olla.requests import ToolChoice, ToolMode

SCHEMA = {"type": "object", "properties": {"b": {}, "a": {}}}


def _function(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


BOTH = [_function("f"), _function("g")]


def _read(**fields: Any) -> tuple[tuple[Tool, ...], ToolChoice]:
    return tools_of(parse_body(json.dumps(fields).encode(), "X"))


def _allow(mode: str, *names: str) -> dict[str, Any]:
    return {
        "type": "allowed_tools",
        "allowed_tools": {"mode": mode, "tools": [_function(name) for name in names]},
    }


def test_without_tools_there_is_nothing_to_choose() -> None:
    assert _read() == ((), ToolChoice())


def test_a_tool_is_kept_as_it_was_sent() -> None:
    function = {"name": "f", "description": "d", "parameters": SCHEMA, "strict": True}

    tools, _ = _read(tools=[{"type": "function", "function": function}])

    assert tools == (Tool("f", "d", SCHEMA),)


def test_a_tool_needs_no_type() -> None:
    assert _read(tools=[{"function": {"name": "f"}}])[0] == (Tool("f"),)


def test_tools_that_may_not_be_called_are_not_on_offer() -> None:
    assert _read(tools=BOTH, tool_choice="none") == ((), ToolChoice(ToolMode.NONE))


@pytest.mark.parametrize("choice", [None, "", "auto", "required"])
def test_the_choice_is_a_word(choice: str | None) -> None:
    tools, chosen = _read(tools=BOTH, tool_choice=choice)

    assert chosen == ToolChoice(ToolMode(choice or "auto"))
    assert len(tools) == 2


def test_the_choice_is_a_function() -> None:
    tools, chosen = _read(tools=BOTH, tool_choice=_function("g"))

    assert chosen == ToolChoice(ToolMode.REQUIRED, "g")
    assert len(tools) == 2


@pytest.mark.parametrize("mode", ["auto", "required"])
def test_the_choice_is_among_some(mode: str) -> None:
    tools, chosen = _read(tools=BOTH, tool_choice=_allow(mode, "g"))

    assert chosen == ToolChoice(ToolMode(mode))
    assert tools == (Tool("g"),)


@pytest.mark.parametrize(("sent", "parallel"), [(None, True), (True, True), (False, False)])
def test_calls_may_be_parallel_unless_told_not_to(sent: bool | None, parallel: bool) -> None:
    assert _read(tools=BOTH, parallel_tool_calls=sent)[1].parallel is parallel


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"tool_choice": "required"}, "tool_choice requires a call of a tool"),
        ({"tools": [], "tool_choice": "required"}, "tool_choice requires a call of a tool"),
        ({"tool_choice": _function("f")}, 'the function "f", which is not among tools'),
        ({"tools": BOTH, "tool_choice": _function("x")}, 'the function "x", which is not among'),
        ({"tools": BOTH, "tool_choice": _allow("auto", "x")}, 'the function "x", which is not'),
        ({"tools": BOTH, "tool_choice": _allow("required")}, "tools has none to offer"),
        ({"tools": BOTH, "tool_choice": _allow("none", "f")}, "invalid tool_choice"),
        ({"tools": BOTH, "tool_choice": "any"}, "invalid tool_choice"),
        ({"tools": BOTH, "tool_choice": 1}, "invalid tool_choice"),
        ({"tools": BOTH, "tool_choice": {"type": "custom"}}, "invalid tool_choice"),
        ({"tools": [{"type": "custom"}]}, 'tools of type "custom" are not supported'),
        ({"tools": [{"type": "function"}]}, "a tool has no function.name"),
        ({"tools": ["f"]}, "json: cannot unmarshal string"),
    ],
)
def test_what_cannot_be_chosen_is_refused(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(BadInput, match=text.replace("(", r"\(")):
        _read(**fields)
