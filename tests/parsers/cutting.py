"""One helper for all parsers: the same reply, cut in every place."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace

from olla.messages import Tool, ToolCall
from olla.parsers.base import Delta, OutputParser

WEATHER = Tool(
    "get_weather",
    parameters={
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer"},
            "hot": {"type": "boolean"},
            "tags": {"type": "array"},
            "spot": {"type": "object"},
        },
    },
)
GET = Tool("get", parameters={"type": "object", "properties": {}})
TOOLS = (GET, WEATHER)

_ID = re.compile(r"call_[a-z0-9]{8}")


def run(parser: OutputParser, pieces: Iterable[str]) -> Delta:
    """What the parser makes of the pieces, with the ids of calls checked and left out."""
    whole = Delta.join((*[parser.push(piece) for piece in pieces], parser.finish()))
    ids = [call.id for call in whole.tool_calls]
    assert all(_ID.fullmatch(id_) for id_ in ids)
    assert len(set(ids)) == len(ids)
    calls = tuple(replace(call, id="") for call in whole.tool_calls)
    return replace(whole, tool_calls=calls)


def parse(make: Callable[[], OutputParser], reply: str) -> Delta:
    """The reply parsed; where it is cut must not matter."""
    whole = run(make(), [reply])
    assert run(make(), list(reply)) == whole, "one character at a time"
    for cut in range(1, len(reply)):
        assert run(make(), [reply[:cut], reply[cut:]]) == whole, f"cut before {reply[cut:]!r}"
    return whole


def calls(*wanted: tuple[str, dict[str, object]]) -> tuple[ToolCall, ...]:
    return tuple(ToolCall(name, arguments) for name, arguments in wanted)
