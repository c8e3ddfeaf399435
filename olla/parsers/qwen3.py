"""Calls as Qwen 3, Hermes and many others write them: JSON between <tool_call> tags."""

from __future__ import annotations

from olla.parsers.base import CallStyle, ToolCallFormat
from olla.parsers.bodies import JSON_STRING
from olla.parsers.json_calls import read_json_calls
from olla.parsers.tagged import CallSyntax

QWEN3 = CallSyntax(
    begin="<tool_call>",
    end="</tool_call>",
    read=read_json_calls,
    format=ToolCallFormat("<tool_call>\n", "\n</tool_call>", CallStyle.JSON_ARGUMENTS),
    quotes=(JSON_STRING,),
)
