"""reply_grammar(): what a reply is held to, from its first character on.

Knows how models write; nothing of tokens. A format or a required call comes at once, or behind
thinking, which has to be closed once it is begun. With a choice of tools the text is free up to the
tag that begins a call; models that write calls without a tag are free. With a format beside tools
the reply is either.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from olla.parsers.base import ToolCallFormat, Tools
from olla.parsers.call_rules import (
    ReplyGrammar,
    Rules,
    any_of,
    call_body,
    json_call,
    json_calls,
    text,
)
from olla.parsers.harmony import CHANNEL, CONSTRAIN, END, MESSAGE, START, identifier_of
from olla.parsers.thinking import ThinkingTags
from olla.requests import ToolChoice, ToolMode

_BRACKETS = {"{", "["}


@dataclass(frozen=True, slots=True)
class ReplyShape:
    """How this reply may be written.

    `thinking`: None if it does not think. `is_open`: it goes on with what the prompt has begun:
    thinking, or in harmony a message. `generic_tag` begins calls of a model of which no more is
    known; brackets are part of the call.
    """

    thinking: ThinkingTags | None = None
    is_open: bool = False
    calls: ToolCallFormat | None = None
    generic_tag: str = ""
    is_harmony: bool = False

    @property
    def trigger(self) -> str:
        """The tag that begins a call; "" if there is none."""
        tag = self.generic_tag or (self.calls.begin.strip() if self.calls else "")
        return "" if tag in _BRACKETS else tag


def reply_grammar(
    shape: ReplyShape,
    format: Mapping[str, Any] | None,
    tools: Tools,
    choice: ToolChoice,
) -> ReplyGrammar | None:
    """None where the reply is free."""
    if choice.mode is ToolMode.REQUIRED:
        return _required(shape, tuple(tool for tool in tools if choice.name in {"", tool.name}))
    rules = Rules(tools, is_parallel=choice.parallel)
    if format is not None:
        return _formatted(rules, shape, format)
    return _free_until_call(rules, shape) if tools and shape.trigger else None


def _required(shape: ReplyShape, tools: Tools) -> ReplyGrammar:
    """One call, which whoever is not of harmony writes in JSON: see required.py."""
    rules = Rules(tools, is_parallel=False)
    if shape.is_harmony:
        return rules.grammar(_harmony_call(rules))
    return rules.grammar(f"{_thinking(rules, shape)} {json_call(rules)}")


def _formatted(rules: Rules, shape: ReplyShape, format: Mapping[str, Any]) -> ReplyGrammar:
    schema = rules.schema("the format", format)
    if shape.is_harmony:
        answer = schema if shape.is_open else f"{_harmony_final(rules)} {schema}"
        replies = [answer, *([_harmony_call(rules)] if rules.tools else ())]
        return rules.grammar(any_of(replies))
    replies = [schema, *([_calls(rules, shape)] if rules.tools else ())]
    return rules.grammar(f"{_thinking(rules, shape)} {any_of(replies)}")


def _free_until_call(rules: Rules, shape: ReplyShape) -> ReplyGrammar:
    """Where it cannot be used the model is free: nobody asked for more than a choice of tools."""
    call = f"call: {rules.upto(shape.trigger)} {_body(rules, shape)}"
    free = rules.without(shape.trigger)
    start = f"call* {free}" if rules.is_parallel else f"{free} | call {_block_end(rules, shape)}"
    return rules.grammar(start, call, is_optional=True)


def _calls(rules: Rules, shape: ReplyShape) -> str:
    """A reply of nothing but calls."""
    if not shape.trigger:
        return _body(rules, shape)
    calls = rules.one_or_more(f"{rules.tag(shape.trigger)} {_body(rules, shape)}")
    block_begin = shape.calls.block_begin if shape.calls else ""
    begin = f"({rules.tag(block_begin)} WS)?" if block_begin else ""
    return f"{begin} {calls} {_block_end(rules, shape)}"


def _block_end(rules: Rules, shape: ReplyShape) -> str:
    block_end = shape.calls.block_end if shape.calls else ""
    return f"(WS {rules.tag(block_end)})?" if block_end else ""


def _body(rules: Rules, shape: ReplyShape) -> str:
    if shape.calls is not None:
        return call_body(rules, shape.calls)
    return f"WS {json_calls(rules, ('arguments', 'parameters'))}"


def _thinking(rules: Rules, shape: ReplyShape) -> str:
    if shape.thinking is None:
        return ""
    thought = f"{rules.upto(shape.thinking.closing)} WS"
    if shape.is_open:
        return thought
    token, rest = shape.thinking.opening_token, shape.thinking.opening_rest
    return f"(WS {rules.tag(token)} {text(rest)} {thought})?"


def _harmony_final(rules: Rules) -> str:
    return f'{_harmony_before(rules)} {rules.tag(CHANNEL)} "final" {rules.tag(MESSAGE)}'


def _harmony_before(rules: Rules) -> str:
    """Whole messages, to itself or to the user."""
    return (
        f'({rules.tag(CHANNEL)} ("analysis" | "commentary") {rules.tag(MESSAGE)} '
        f'{rules.upto(END)} {rules.tag(START)} "assistant")*'
    )


def _harmony_call(rules: Rules) -> str:
    calls = any_of(
        f"{text(f'commentary to=functions.{identifier_of(tool, rules.tools)} ')} "
        f'{rules.tag(CONSTRAIN)} "json" {rules.tag(MESSAGE)} {rules.arguments(tool)}'
        for tool in rules.tools
    )
    return f"{_harmony_before(rules)} {rules.tag(CHANNEL)} {calls}"
