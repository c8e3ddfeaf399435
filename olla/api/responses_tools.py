"""OpenAI's tools in responses -> functions (spec/openai-anthropic.md sections 6.1 and 6.4).

A namespace's functions are known to the model as `<namespace>.<name>`. There is no search of the
web here: `web_search` is offered as an ordinary function, and a call of it is the client's to
answer. All other tools that are not functions are refused by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from olla.api.json_fields import Fields
from olla.api.responses_items import joined_name
from olla.api.turns import check_tool_choice, refuse_tool
from olla.errors import BadInput
from olla.messages import Tool
from olla.requests import ToolChoice, ToolMode

Namespaces = dict[str, tuple[str, str]]

_TOOL = "responses.Tool"
_MODES = {mode.value: mode for mode in ToolMode}
_WEB_SEARCH = Tool(
    "web_search",
    "Search the web for what is new or not known.",
    {
        "type": "object",
        "required": ["query"],
        "properties": {"query": {"type": "string", "description": "what to search for"}},
    },
)


def tools_from_fields(fields: Fields) -> tuple[tuple[Tool, ...], Namespaces]:
    """The functions on offer, and those of them that have a namespace, by their joined names."""
    tools: list[Tool] = []
    namespaces: Namespaces = {}
    searches = False
    for item in fields.objects("tools", _TOOL):
        kind = item.text("type")
        if kind == "namespace":
            for tool in _members(item):
                tools.append(tool)
                namespaces[tool.name] = _split(item, tool)
        elif kind.startswith("web_search"):
            searches = True
        else:
            tools.append(_function(item))
    if searches:
        tools = [tool for tool in tools if tool.name != _WEB_SEARCH.name] + [_WEB_SEARCH]
    return tuple(tools), namespaces


def tool_choice_from_fields(
    fields: Fields, tools: Sequence[Tool]
) -> tuple[ToolChoice, tuple[Tool, ...]]:
    """The choice, and the tools that it leaves on offer.

    Raises:
        BadInput: a choice of a kind that is not known, or of a tool that is not on offer.
    """
    parallel = fields.flag("parallel_tool_calls", default=True)
    value = fields.raw("tool_choice")
    if value is None or isinstance(value, str):
        choice = ToolChoice(_mode(value or "auto"), parallel=parallel)
        return check_tool_choice(choice, tools), tuple(tools)
    wanted = fields.child("tool_choice", "responses.ToolChoice")
    kind = wanted.text("type")
    if kind == "function":
        choice = ToolChoice(ToolMode.REQUIRED, joined_name(wanted), parallel)
        return check_tool_choice(choice, tools), tuple(tools)
    if kind != "allowed_tools":
        raise BadInput(f'a "tool_choice" of type "{kind}" is not supported by this server')
    names = {joined_name(tool) or tool.text("type") for tool in wanted.objects("tools", _TOOL)}
    offered = tuple(tool for tool in tools if tool.name in names)
    choice = ToolChoice(_mode(wanted.text("mode") or "auto"), parallel=parallel)
    return check_tool_choice(choice, offered), offered


def _mode(text: str) -> ToolMode:
    if text not in _MODES:
        raise BadInput(f'invalid tool_choice: "{text}" (must be "auto", "none" or "required")')
    return _MODES[text]


def _function(item: Fields, namespace: str = "") -> Tool:
    kind, name = item.text("type"), item.text("name")
    if kind != "function":
        raise refuse_tool(kind)
    if not name:
        raise BadInput('each function of "tools" needs a "name"')
    full = f"{namespace}.{name}" if namespace else name
    return Tool(full, item.text("description"), item.object("parameters"))


def _members(item: Fields) -> Iterator[Tool]:
    namespace = item.text("name")
    if not namespace:
        raise BadInput('each namespace of "tools" needs a "name"')
    for member in item.objects("tools", _TOOL):
        yield _function(member, namespace)


def _split(item: Fields, tool: Tool) -> tuple[str, str]:
    namespace = item.text("name")
    return namespace, tool.name.removeprefix(f"{namespace}.")
