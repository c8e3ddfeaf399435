"""Calls as GLM 4.5 to 4.7 and Laguna write them: keys and values in tags of their own.

<tool_call>NAME<arg_key>K</arg_key><arg_value>V</arg_value></tool_call>; values are plain text or
JSON, typed by the tool's schema.
"""

from __future__ import annotations

import re

from olla.messages import ToolCall
from olla.parsers.base import CallStyle, NotACall, ToolCallFormat, Tools, new_call
from olla.parsers.bodies import Quote
from olla.parsers.tagged import CallSyntax
from olla.parsers.typed import parameters_of, typed

_NAME = re.compile(r"\s*([^\s<{]+)\s*")
_KEY = re.compile(r"\s*<arg_key>([^<]*)</arg_key>\s*<arg_value>")
_VALUE_END = "</arg_value>"


def read_keys_and_values(text: str, tools: Tools) -> tuple[ToolCall, ...]:
    """
    Raises:
        NotACall: a tag is missing, or something else is there.
    """
    found = _NAME.match(text)
    if found is None:
        raise NotACall("no name")
    name, place = found[1], found.end()
    schemas = parameters_of(name, tools)
    arguments = {}
    while key := _KEY.match(text, place):
        end = text.find(_VALUE_END, key.end())
        if end < 0:
            raise NotACall("a value without an end")
        argument = key[1].strip()
        arguments[argument] = typed(text[key.end() : end], schemas.get(argument))
        place = end + len(_VALUE_END)
    if text[place:].strip():
        raise NotACall("something else")
    return (new_call(name, arguments),)


GLM = CallSyntax(
    begin="<tool_call>",
    end="</tool_call>",
    read=read_keys_and_values,
    format=ToolCallFormat("<tool_call>", "</tool_call>", CallStyle.ARGUMENT_TAGS),
    quotes=(Quote("<arg_value>", _VALUE_END),),
)
