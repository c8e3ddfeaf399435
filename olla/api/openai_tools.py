"""The tools of a chat completion, and which of them the reply may or must call.

Of a tool's fields, `strict` is ignored: calls are held to the schema wherever they can be.
"""

from __future__ import annotations

from collections.abc import Iterable

from olla.api.json_fields import Fields
from olla.errors import BadInput
from olla.messages import Tool
from olla.requests import ToolChoice, ToolMode

_MODES = {mode.value: mode for mode in ToolMode}


def tools_of(fields: Fields) -> tuple[tuple[Tool, ...], ToolChoice]:
    """
    Raises:
        BadInput: a tool that is no function, or a choice that cannot be made among the tools.
    """
    tools = tuple(_tool(tool) for tool in fields.objects("tools", "openai.Tool"))
    tools, mode, name = _choose(tools, fields.raw("tool_choice"))
    if mode is ToolMode.REQUIRED and not tools:
        raise BadInput("tool_choice requires a call of a tool, but tools has none to offer")
    parallel = fields.flag("parallel_tool_calls", default=True)
    return tools, ToolChoice(mode, name, parallel)


def _tool(fields: Fields) -> Tool:
    kind = fields.text("type") or "function"
    if kind != "function":
        raise BadInput(f'tools of type "{kind}" are not supported; use type "function"')
    function = fields.child("function", "openai.ToolFunction")
    if not function.text("name"):
        raise BadInput("a tool has no function.name; give it one")
    return Tool(function.text("name"), function.text("description"), function.object("parameters"))


def _choose(tools: tuple[Tool, ...], choice: object) -> tuple[tuple[Tool, ...], ToolMode, str]:
    """The tools on offer, whether one must be called, and which."""
    match choice:
        case None | "":
            return tools, ToolMode.AUTO, ""
        case ToolMode.NONE:
            return (), ToolMode.NONE, ""
        case str() if choice in _MODES:
            return tools, _MODES[choice], ""
        case {"type": "function", "function": {"name": str(name)}}:
            _check_known(tools, [name])
            return tools, ToolMode.REQUIRED, name
        case {
            "type": "allowed_tools",
            "allowed_tools": {"mode": "auto" | "required" as mode, "tools": list(allowed)},
        }:
            return _allowed(tools, allowed), ToolMode(mode), ""
    raise BadInput(
        'invalid tool_choice: must be "none", "auto", "required", or an object of type "function" '
        'or "allowed_tools"'
    )


def _allowed(tools: tuple[Tool, ...], allowed: Iterable[object]) -> tuple[Tool, ...]:
    names = [_name(item) for item in allowed]
    _check_known(tools, names)
    return tuple(tool for tool in tools if tool.name in names)


def _name(item: object) -> str:
    match item:
        case {"type": "function", "function": {"name": str(name)}}:
            return name
    raise BadInput("invalid tool_choice: allowed_tools may only name functions")


def _check_known(tools: tuple[Tool, ...], names: Iterable[str]) -> None:
    known = {tool.name for tool in tools}
    for name in names:
        if name not in known:
            raise BadInput(f'tool_choice names the function "{name}", which is not among tools')
