"""Rules for calls in llguidance's Lark dialect, one function for each style of writing them.

A call in JSON is written with the keys in order, since a grammar holds each tool's arguments to its
own schema. Of the other styles only the name is held, and that the call ends.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from olla.messages import Tool
from olla.parsers.base import CallStyle, ToolCallFormat, Tools


@dataclass(frozen=True, slots=True)
class ReplyGrammar:
    """As `runner.protocol.Grammar`; each schema with what errors call it."""

    source: str
    schemas: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    tags: tuple[str, ...] = ()
    is_optional: bool = False


class Rules:
    """Collects what a grammar refers to; see runner/protocol.py for the names of its rules."""

    def __init__(self, tools: Tools, *, is_parallel: bool) -> None:
        self.tools = tools
        self.is_parallel = is_parallel
        self._schemas: list[tuple[str, Mapping[str, Any]]] = []
        self._tags: list[str] = []

    def schema(self, name: str, schema: Mapping[str, Any]) -> str:
        self._schemas.append((name, schema))
        return f"schema_{len(self._schemas) - 1}"

    def arguments(self, tool: Tool) -> str:
        schema = {"type": "object", **tool.parameters}
        return self.schema(f'the parameters of the tool "{tool.name}"', schema)

    def tag(self, text: str) -> str:
        return f"tag_{self._place(text)}" if text else '""'

    def upto(self, text: str) -> str:
        return f"upto_{self._place(text)}"

    def without(self, text: str) -> str:
        return f"without_{self._place(text)}"

    def one_or_more(self, item: str, separator: str = "") -> str:
        between = f"WS {text(separator)} WS" if separator else "WS"
        return f"{item} ({between} {item})*" if self.is_parallel else item

    def grammar(self, start: str, *others: str, is_optional: bool = False) -> ReplyGrammar:
        source = "\n".join((f"start: {start}", *others, r"WS: /[ \t\r\n]{0,16}/"))
        return ReplyGrammar(source, tuple(self._schemas), tuple(self._tags), is_optional)

    def _place(self, tag: str) -> int:
        if tag not in self._tags:
            self._tags.append(tag)
        return self._tags.index(tag)


def text(value: str) -> str:
    return json.dumps(value)


def any_of(choices: Iterable[str]) -> str:
    return f"({' | '.join(choices)})"


def json_call(rules: Rules, keys: Iterable[str] = ("arguments",)) -> str:
    """One object; its arguments stand under any of `keys`."""
    key = any_of(text(f'"{key}": ') for key in keys)
    begin, end = text("{"), text("}")
    return any_of(
        f"{begin} {text(_head('name', tool))} {key} {rules.arguments(tool)} {end}"
        for tool in rules.tools
    )


def _head(key: str, tool: Tool) -> str:
    return f'"{key}": {json.dumps(tool.name)}, '


def json_calls(rules: Rules, keys: Iterable[str] = ("arguments",)) -> str:
    """One object or a list."""
    call = json_call(rules, keys)
    return any_of((call, _list_of(rules, call)))


def call_body(rules: Rules, format: ToolCallFormat) -> str:
    """What stands behind the tag that begins a call, up to the end of that which ends it."""
    return f"WS {_BODIES[format.style](rules, format)}"


def _list_of(rules: Rules, call: str) -> str:
    return f'"[" WS {rules.one_or_more(call, ",")} WS "]"'


def _ending(rules: Rules, format: ToolCallFormat) -> str:
    end = format.end.strip()
    return f"WS {rules.tag(end)}" if end else ""


def _json_arguments(rules: Rules, format: ToolCallFormat) -> str:
    return f"{json_call(rules)} {_ending(rules, format)}"


def _json_parameters(rules: Rules, format: ToolCallFormat) -> str:
    call = json_call(rules, ("parameters",))
    return f"{rules.one_or_more(call, separator=';')} {_ending(rules, format)}"


def _json_list(rules: Rules, format: ToolCallFormat) -> str:
    return f"{_list_of(rules, json_call(rules))} {_ending(rules, format)}"


def _cohere_list(rules: Rules, format: ToolCallFormat) -> str:
    number = " ".join((text('{"tool_call_id": "'), "/[0-9]{1,3}/", text('", ')))
    key = text('"parameters": ')
    call = any_of(
        f'{number} {text(_head("tool_name", tool))} {key} {rules.arguments(tool)} "}}"'
        for tool in rules.tools
    )
    return f"{_list_of(rules, call)} {_ending(rules, format)}"


def _name_then_json(rules: Rules, format: ToolCallFormat) -> str:
    separator, ending = rules.tag(format.separator), _ending(rules, format)
    calls = []
    for tool in rules.tools:
        arguments = rules.arguments(tool)
        calls.append(f"{text(tool.name)} {separator} WS {arguments}")
        if ending:  # as older models of DeepSeek's write them
            fence = text(f"{tool.name}\n```json\n")
            calls.append(f'"function" {separator} {fence} {arguments} "\\n```"')
    return f"{any_of(calls)} {ending}"


def _named(before: str, after: str) -> Callable[[Rules, ToolCallFormat], str]:
    """The name between two texts, then whatever there is up to the end."""

    def body(rules: Rules, format: ToolCallFormat) -> str:
        names = any_of(text(f"{before}{tool.name}{after}") for tool in rules.tools)
        return f"{names} {rules.upto(format.end.strip())}"

    return body


def _python(rules: Rules, format: ToolCallFormat) -> str:
    return '"["? ' + _named("", "(")(rules, format)


_BODIES: Mapping[CallStyle, Callable[[Rules, ToolCallFormat], str]] = {
    CallStyle.JSON_ARGUMENTS: _json_arguments,
    CallStyle.JSON_PARAMETERS: _json_parameters,
    CallStyle.JSON_LIST: _json_list,
    CallStyle.COHERE_LIST: _cohere_list,
    CallStyle.NAME_THEN_JSON: _name_then_json,
    CallStyle.PARAMETER_TAGS: _named("<function=", ">"),
    CallStyle.ARGUMENT_TAGS: _named("", ""),
    CallStyle.BRACES: _named("call:", "{"),
    CallStyle.PYTHON: _python,
}
