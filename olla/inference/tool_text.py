"""with_tools_described(): a conversation that tells of its tools, for a template that does not.

A call that is required is held to by a grammar, whatever the model was made for; what it may call
it has to be told in words.
"""

from __future__ import annotations

import json
from dataclasses import replace

from olla.messages import Message, Tool

_INTRODUCTION = "You can call these functions, each described by a line of JSON:"
_FORM = 'Answer with a call of one of them: {"name": its name, "arguments": an object}.'


def with_tools_described(
    messages: tuple[Message, ...], tools: tuple[Tool, ...]
) -> tuple[Message, ...]:
    """The system message grows, since many templates take but one; without one, it is the first."""
    described = "\n".join((_INTRODUCTION, *map(_line, tools), _FORM))
    first, *others = messages
    if first.role != "system":
        return (Message("system", described), *messages)
    return (replace(first, content=f"{first.content}\n\n{described}".strip()), *others)


def _line(tool: Tool) -> str:
    parts = {
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
    }
    known = {key: value for key, value in parts.items() if value}
    return json.dumps(known, ensure_ascii=False)
