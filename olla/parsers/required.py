"""A call that the model has to make: the grammar it is held to, and the parser of such a reply.

Whatever a model's own way of writing calls, a required one is written as one JSON object with a
`name` and `arguments`, since that is what a grammar can hold every model to.
"""

from __future__ import annotations

import json

from olla.messages import Tool
from olla.parsers.base import Delta, Tools, new_call

_WHITESPACE = r" |\n[ \t]{0,40}"  # a small model would go on with blanks for ever


def call_grammar(tools: Tools, name: str = "") -> str:
    """A call of one of `tools`, or of the one called `name`, in llguidance's Lark dialect.

    Each tool's schema stands by itself, so its references find what they name.
    """
    offered = [tool for tool in tools if name in {"", tool.name}]
    rules = (rule for number, tool in enumerate(offered) for rule in _rules(number, tool))
    return "\n".join((f"start: {' | '.join(f't{i}' for i in range(len(offered)))}", *rules))


def _rules(number: int, tool: Tool) -> tuple[str, str]:
    head = f'{{"name": {json.dumps(tool.name)}, "arguments": '
    schema = {
        "type": "object",
        **tool.parameters,
        "x-guidance": {"whitespace_pattern": _WHITESPACE},
    }
    return (
        f't{number}: {json.dumps(head)} t{number}_arguments "}}"',
        f"t{number}_arguments: %json {json.dumps(schema)}",
    )


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
