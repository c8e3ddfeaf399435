"""A conversation whose template shows no tools is told of them in its system message."""

from __future__ import annotations

import json

from olla.inference.tool_text import with_tools_described
from olla.messages import Message, Tool

TOOL = Tool("weather", "How warm it is", {"type": "object"})
USER = Message("user", "Hi")


def test_without_a_system_message_the_tools_are_the_first() -> None:
    first, last = with_tools_described((USER,), (TOOL,))

    assert (first.role, last) == ("system", USER)
    line = json.loads(first.content.splitlines()[1])
    assert line == {
        "name": "weather",
        "description": "How warm it is",
        "parameters": {"type": "object"},
    }


def test_a_system_message_keeps_its_words_before_the_tools() -> None:
    first, last = with_tools_described((Message("system", "Be brief."), USER), (TOOL, TOOL))

    assert first.content.startswith("Be brief.\n\n")
    assert first.content.count('"weather"') == 2
    assert last == USER
