"""Calls as DeepSeek V3, R1 and Cogito write them: a name, a separator, JSON.

Older models write `function`, the separator, the name, and JSON in a Markdown fence.
"""

from __future__ import annotations

import re

from olla.messages import ToolCall
from olla.parsers.base import CallStyle, NotACall, ToolCallFormat, Tools, new_call
from olla.parsers.bodies import JSON_STRING
from olla.parsers.json_calls import read_json_object
from olla.parsers.tagged import CallSyntax

_BEGIN, _END = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"
_BLOCK_BEGIN, _BLOCK_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
_SEPARATOR = "<｜tool▁sep｜>"
_FENCED = re.compile(r"\s*(\S+)\s*```json\s*(.*\S)\s*```\s*", re.DOTALL)


def read_named_json(text: str, _tools: Tools) -> tuple[ToolCall, ...]:
    """
    Raises:
        NotACall: no name, or arguments that are not one JSON object.
    """
    name, separator, arguments = text.partition(_SEPARATOR)
    if name.strip() == "function" and (fenced := _FENCED.fullmatch(arguments)):
        name, arguments = fenced[1], fenced[2]
    if not separator or not name.strip():
        raise NotACall("no name")
    return (new_call(name.strip(), read_json_object(arguments)),)


DEEPSEEK3 = CallSyntax(
    begin=_BEGIN,
    end=_END,
    read=read_named_json,
    format=ToolCallFormat(
        _BEGIN, _END, CallStyle.NAME_THEN_JSON, _SEPARATOR, _BLOCK_BEGIN, _BLOCK_END
    ),
    quotes=(JSON_STRING,),
    hidden=(_BLOCK_BEGIN, _BLOCK_END),
)
