"""Calls written as Python calls: LFM 2 in a list, OLMo 3 one a line. Nothing is evaluated."""

from __future__ import annotations

from olla.messages import ToolCall
from olla.parsers.base import CallStyle, NotACall, ToolCallFormat, Tools, new_call
from olla.parsers.bodies import JSON_STRING, SINGLE_QUOTED
from olla.parsers.literals import LiteralReader
from olla.parsers.tagged import CallSyntax


def read_python_calls(text: str, _tools: Tools = ()) -> tuple[ToolCall, ...]:
    """`f(a="b")`, several of them with commas or line breaks between, in a list or not.

    Raises:
        NotACall: anything else.
    """
    reader = LiteralReader(text)
    is_list = bool(reader.accept("["))
    calls = []
    while not reader.is_at_end and not (is_list and reader.accept("]")):
        name = reader.name()
        reader.expect("(")
        calls.append(new_call(name, reader.pairs("=", ")")))
        reader.accept(",", ";")
    if not calls or not reader.is_at_end:
        raise NotACall("no call, or more than calls")
    return tuple(calls)


def _syntax(begin: str, end: str) -> CallSyntax:
    return CallSyntax(
        begin=begin,
        end=end,
        read=read_python_calls,
        format=ToolCallFormat(begin, end, CallStyle.PYTHON),
        quotes=(JSON_STRING, SINGLE_QUOTED),
    )


LFM2 = _syntax("<|tool_call_start|>", "<|tool_call_end|>")
OLMO3 = _syntax("<function_calls>", "</function_calls>")
