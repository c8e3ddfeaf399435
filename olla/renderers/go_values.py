"""Messages, tools and calls as a Go template sees them (spec/modelfile.md sections 5.1, 5.2).

Knows the names of Ollama's fields and the order in which its JSON has them. What a client's
schema has beyond those is kept, behind them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from olla.gotemplate.values import MAX_NESTING, JsonList, JsonMap, Struct
from olla.messages import Message, Tool, ToolCall

DEFAULT_LEVEL = "medium"

_PROPERTY_KEYS = ("anyOf", "type", "items", "description", "enum", "properties", "required")
_PARAMETERS_KEYS = ("type", "$defs", "items", "required", "properties")


def think_variables(think: bool | str | None) -> dict[str, Any]:
    level = think if isinstance(think, str) else DEFAULT_LEVEL if think else ""
    return {"Think": bool(think), "ThinkLevel": level, "IsThinkSet": think is not None}


def message_value(message: Message) -> Struct:
    calls = [_call(index, call) for index, call in enumerate(message.tool_calls)]
    fields = {
        "Role": message.role,
        "Content": message.content,
        "Thinking": message.thinking,
        "Images": list(range(len(message.images))),
        "ToolCalls": calls,
        "ToolName": message.tool_name,
        "ToolCallID": message.tool_call_id,
    }
    document = {"role": message.role, "content": message.content} | _set(
        thinking=message.thinking,
        tool_calls=calls,
        tool_name=message.tool_name,
        tool_call_id=message.tool_call_id,
    )
    return Struct(fields, document)


def tools_value(tools: Iterable[Tool]) -> JsonList:
    return JsonList(_tool(tool) for tool in tools)


def _call(index: int, call: ToolCall) -> Struct:
    arguments = JsonMap(call.arguments)
    function = Struct(
        {"Index": index, "Name": call.name, "Arguments": arguments},
        {"index": index, "name": call.name, "arguments": arguments},
    )
    return Struct({"ID": call.id, "Function": function}, _set(id=call.id) | {"function": function})


def _tool(tool: Tool) -> Struct:
    parameters = _parameters(tool.parameters)
    function = Struct(
        {"Name": tool.name, "Description": tool.description, "Parameters": parameters},
        {"name": tool.name, "description": tool.description, "parameters": parameters},
    )
    return Struct(
        {"Type": "function", "Items": None, "Function": function},
        {"type": "function", "function": function},
    )


def _parameters(schema: Mapping[str, Any]) -> Struct:
    properties = _properties(schema.get("properties"), depth=1)
    whole = {"type": "", **schema, "properties": properties}
    fields = {
        "Type": _type(schema),
        "Defs": schema.get("$defs"),
        "Items": schema.get("items"),
        "Required": _list(schema.get("required")),
        "Properties": properties,
    }
    return Struct(fields, _ordered(whole, _PARAMETERS_KEYS))


def _properties(properties: object, depth: int) -> JsonMap:
    if not isinstance(properties, Mapping):
        return JsonMap()
    return JsonMap({name: _property(schema, depth) for name, schema in properties.items()})


def _property(schema: object, depth: int) -> Any:
    """A schema that is none, or is nested too deep to be printed, stays what it is."""
    if not isinstance(schema, Mapping) or depth > MAX_NESTING:
        return schema
    whole = dict(schema)
    if "properties" in schema:
        whole["properties"] = _properties(schema["properties"], depth + 1)
    if "anyOf" in schema:
        whole["anyOf"] = [_property(choice, depth + 1) for choice in _list(schema["anyOf"])]
    fields = {
        "AnyOf": whole.get("anyOf", []),
        "Type": _type(schema),
        "Items": schema.get("items"),
        "Description": schema.get("description", ""),
        "Enum": _list(schema.get("enum")),
        "Properties": whole.get("properties"),
        "Required": _list(schema.get("required")),
    }
    return Struct(fields, _ordered(whole, _PROPERTY_KEYS))


def _type(schema: Mapping[str, Any]) -> str | list[str]:
    """One type as its name, several as a list."""
    names = schema.get("type", "")
    if isinstance(names, str):
        return names
    return [name for name in _list(names) if isinstance(name, str)]


def _list(value: object) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []


def _ordered(values: Mapping[str, Any], first: tuple[str, ...]) -> dict[str, Any]:
    return {key: values[key] for key in first if key in values} | dict(values)


def _set(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value}
