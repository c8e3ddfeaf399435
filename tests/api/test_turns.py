"""What requests of several dialects are checked and completed by."""

from __future__ import annotations

import pytest

from olla.api.turns import (
    MAX_DEPTH,
    check_depth,
    check_tool_choice,
    estimate_tokens,
    join_first_systems,
    name_tool_results,
)
from olla.errors import BadInput
from olla.messages import Message, Tool, ToolCall
from olla.requests import ToolChoice, ToolMode


def test_what_is_nested_too_deeply_is_refused() -> None:
    def nested(depth: int) -> object:
        value: object = "x"
        for level in range(depth):
            value = {"a": value} if level % 2 else [1, value]
        return value

    check_depth((nested(MAX_DEPTH - 2),), {})
    with pytest.raises(BadInput, match="200 levels are the most"):
        check_depth({}, (nested(MAX_DEPTH),))


def test_a_choice_must_leave_a_tool_to_call() -> None:
    with pytest.raises(BadInput, match='"tools" is empty'):
        check_tool_choice(ToolChoice(ToolMode.REQUIRED), ())
    with pytest.raises(BadInput, match='"g", which is not among'):
        check_tool_choice(ToolChoice(ToolMode.REQUIRED, "g"), (Tool("f"),))


def test_results_are_named_after_the_latest_call_of_their_id() -> None:
    calls = [Message("assistant", tool_calls=(ToolCall(name, id="1"),)) for name in ("f", "g")]
    result = Message("tool", "r", tool_call_id="1")

    named = list(name_tool_results([calls[0], result, calls[1], result, Message("tool")]))

    assert [m.tool_name for m in named if m.role == "tool"] == ["f", "g", ""]


def test_only_the_first_system_messages_become_one() -> None:
    system, user = Message("system", "s"), Message("user", "u")

    joined = list(join_first_systems([system, system, user, system]))

    assert joined == [Message("system", "s\n\ns"), user, system]
    assert list(join_first_systems([user])) == [user]
    assert list(join_first_systems([])) == []


def test_an_estimate_counts_four_characters_as_one_token() -> None:
    assert estimate_tokens([Message("user", "x" * 10), Message("assistant", thinking="yy")]) == 3
