"""Calls as Gemma 4 and FunctionGemma write them: call:NAME{key:value}.

They differ in the tags around a call and in the marks around strings, in which all is text.
"""

from __future__ import annotations

from olla.messages import ToolCall
from olla.parsers.base import CallStyle, NotACall, ToolCallFormat, Tools, new_call
from olla.parsers.bodies import Quote
from olla.parsers.literals import LiteralReader
from olla.parsers.tagged import CallSyntax


def _syntax(begin: str, end: str, mark: str) -> CallSyntax:
    def read(text: str, _tools: Tools) -> tuple[ToolCall, ...]:
        reader = LiteralReader(text, mark)
        calls = []
        while not reader.is_at_end:
            reader.expect("call")
            reader.expect(":")
            name = reader.name()
            reader.expect("{")
            calls.append(new_call(name, reader.pairs(":", "}")))
        if not calls:
            raise NotACall("nothing there")
        return tuple(calls)

    return CallSyntax(
        begin=begin,
        end=end,
        read=read,
        format=ToolCallFormat(begin, end, CallStyle.BRACES, mark),
        quotes=(Quote(mark, mark),),
    )


GEMMA4 = _syntax("<|tool_call>", "<tool_call|>", '<|"|>')
FUNCTIONGEMMA = _syntax("<start_function_call>", "<end_function_call>", "<escape>")
