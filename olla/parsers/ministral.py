"""Calls as Mistral's models write them, after [TOOL_CALLS].

Newer ones write `name[ARGS]{...}` after each tag, older ones one tag and a list in JSON.
"""

from __future__ import annotations

from olla.messages import ToolCall
from olla.parsers.base import CallStyle, NotACall, ToolCallFormat, Tools, new_call
from olla.parsers.json_calls import read_json_calls, read_json_object
from olla.parsers.tagged import CallSyntax

_BEGIN, _ARGUMENTS, _ID = "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"


def read_mistral_calls(text: str, tools: Tools) -> tuple[ToolCall, ...]:
    """
    Raises:
        NotACall: it is neither of the two forms.
    """
    if text.lstrip().startswith(("[{", "{")):
        return read_json_calls(text, tools)
    name, brace, rest = text.partition("{")
    name = name.partition(_ARGUMENTS)[0].partition(_ID)[0].strip()
    if not name or len(name.split()) > 1:
        raise NotACall("no name")
    return (new_call(name, read_json_object(brace + rest)),)


MINISTRAL = CallSyntax(
    begin=_BEGIN,
    end="",
    read=read_mistral_calls,
    format=ToolCallFormat(_BEGIN, "", CallStyle.NAME_THEN_JSON, _ARGUMENTS),
    ignored=(_ARGUMENTS, _ID),
)
MISTRAL = CallSyntax(
    begin=_BEGIN,
    end="",
    read=read_mistral_calls,
    format=ToolCallFormat(_BEGIN, "", CallStyle.JSON_LIST),
    ignored=(_ARGUMENTS, _ID),
)
