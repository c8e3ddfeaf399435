"""A call that the model has to make: the schema it is held to, and the parser of such a reply.

Whatever a model's own way of writing calls, a required one is written as one JSON object with a
`name` and `arguments`, since that is what a grammar can hold every model to.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from olla.errors import BadInput
from olla.messages import Tool
from olla.parsers.base import Delta, Tools, new_call

_DEFS = "$defs"


def call_schema(tools: Tools, name: str = "") -> Mapping[str, Any]:
    """The JSON schema of a call of one of `tools`, or of the one called `name`.

    Definitions of the tools' schemas move to the top, where their references look for them.

    Raises:
        BadInput: two tools define different things under one name.
    """
    offered = [tool for tool in tools if name in {"", tool.name}]
    definitions: dict[str, Any] = {}
    for tool in offered:
        for key, value in tool.parameters.get(_DEFS, {}).items():
            if definitions.setdefault(key, value) != value:
                raise BadInput(f'the tools define "{key}" twice in their $defs, and differently')
    calls = [_call(tool) for tool in offered]
    schema = calls[0] if len(calls) == 1 else {"anyOf": calls}
    return {**schema, _DEFS: definitions} if definitions else schema


def _call(tool: Tool) -> dict[str, Any]:
    parameters = {key: value for key, value in tool.parameters.items() if key != _DEFS}
    return {
        "type": "object",
        "properties": {
            "name": {"const": tool.name},
            "arguments": {"type": "object", **parameters},
        },
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


class RequiredCall:
    """Reads the JSON of a required call; what breaks off in it is shown as content."""

    def __init__(self) -> None:
        self._pieces: list[str] = []

    def push(self, text: str) -> Delta:
        self._pieces.append(text)
        return Delta()

    def finish(self) -> Delta:
        text = "".join(self._pieces)
        try:
            call = json.loads(text)
            found = new_call(call["name"], call["arguments"])
        except (ValueError, TypeError, KeyError):
            return Delta(content=text)
        return Delta(tool_calls=(found,))
