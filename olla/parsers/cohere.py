"""Calls as Cohere's Command models write them: a JSON list between <|START_ACTION|> tags."""

from __future__ import annotations

from olla.parsers.base import CallStyle, ToolCallFormat
from olla.parsers.bodies import JSON_STRING
from olla.parsers.json_calls import read_json_calls
from olla.parsers.tagged import CallSyntax

_BEGIN, _END = "<|START_ACTION|>", "<|END_ACTION|>"

COHERE = CallSyntax(
    begin=_BEGIN,
    end=_END,
    read=read_json_calls,
    format=ToolCallFormat(_BEGIN, _END, CallStyle.COHERE_LIST),
    quotes=(JSON_STRING,),
    hidden=(
        "<|START_TEXT|>",
        "<|END_TEXT|>",
        "<|START_RESPONSE|>",
        "<|END_RESPONSE|>",
        "<|END_OF_TURN_TOKEN|>",
    ),
)
