"""Calls as Qwen 3 Coder, Qwen 3.5 and Nemotron 3 write them: a tag for each parameter.

    <tool_call><function=NAME><parameter=P>
    value
    </parameter></function></tool_call>

Values are plain text, typed by the tool's schema.
"""

from __future__ import annotations

import re

from olla.messages import ToolCall
from olla.parsers.base import CallStyle, NotACall, ToolCallFormat, Tools, new_call
from olla.parsers.bodies import Quote
from olla.parsers.tagged import CallSyntax
from olla.parsers.typed import parameters_of, typed

_FUNCTION = re.compile(r"\s*<function=([^>\s]+)\s*>")
_PARAMETER = re.compile(r"\s*<parameter=([^>\s]+)\s*>")
_VALUE_END, _FUNCTION_END = "</parameter>", "</function>"


def read_tagged_parameters(text: str, tools: Tools) -> tuple[ToolCall, ...]:
    """
    Raises:
        NotACall: a tag is missing, or something else is there.
    """
    function = _FUNCTION.match(text)
    if function is None:
        raise NotACall("no function")
    name, place = function[1], function.end()
    schemas = parameters_of(name, tools)
    arguments = {}
    while parameter := _PARAMETER.match(text, place):
        end = text.find(_VALUE_END, parameter.end())
        if end < 0:
            raise NotACall("a value without an end")
        value = text[parameter.end() : end]
        arguments[parameter[1]] = typed(value, schemas.get(parameter[1]))
        place = end + len(_VALUE_END)
    if text[place:].strip() != _FUNCTION_END:
        raise NotACall("no end")
    return (new_call(name, arguments),)


QWEN3_CODER = CallSyntax(
    begin="<tool_call>",
    end="</tool_call>",
    read=read_tagged_parameters,
    format=ToolCallFormat("<tool_call>\n", "\n</tool_call>", CallStyle.PARAMETER_TAGS),
    quotes=(Quote("<parameter=", _VALUE_END),),
)
