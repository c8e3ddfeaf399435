"""OutputParser: the text of a reply, piece by piece, split into thinking, content and tool calls.

Knows nothing about models, runners or JSON replies. The laws that every parser keeps: where the
stream is cut does not matter; tags never show; a call comes whole or not at all; what was held
back when the reply ends is shown then; and time grows with the length of the reply, not faster.
"""

from __future__ import annotations

import secrets
import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Protocol

from olla.messages import Tool, ToolCall

Tools = tuple[Tool, ...]

_ID_LETTERS = string.ascii_lowercase + string.digits
_ID_LENGTH = 8


class NotACall(ValueError):
    """Text between the tags of a call that cannot be read as one; it is shown as content."""


class CallStyle(StrEnum):
    """How a call is written between its tags."""

    JSON_ARGUMENTS = "json_arguments"  # {"name": N, "arguments": {...}}
    JSON_PARAMETERS = "json_parameters"  # {"name": N, "parameters": {...}}
    JSON_LIST = "json_list"  # [{"name": N, "arguments": {...}}, ...]
    COHERE_LIST = "cohere_list"  # [{"tool_call_id": I, "tool_name": N, "parameters": {...}}, ...]
    NAME_THEN_JSON = "name_then_json"  # N, then `separator`, then the arguments in JSON
    PARAMETER_TAGS = "parameter_tags"  # <function=N><parameter=P>value</parameter></function>
    ARGUMENT_TAGS = "argument_tags"  # N<arg_key>P</arg_key><arg_value>value</arg_value>
    BRACES = "braces"  # call:N{P:value}, strings between `separator`s
    PYTHON = "python"  # [N(P=value)]


@dataclass(frozen=True, slots=True)
class ToolCallFormat:
    """How the model writes calls, for who wants to hold it to that. "" is no tag.

    `block_begin` and `block_end` stand around all calls of a reply, `begin` and `end` around each.
    """

    begin: str
    end: str
    style: CallStyle
    separator: str = ""
    block_begin: str = ""
    block_end: str = ""


@dataclass(frozen=True, slots=True)
class Delta:
    """What one more piece of a reply adds. False when it adds nothing."""

    thinking: str = ""
    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()

    def __add__(self, other: Delta) -> Delta:
        return Delta.join((self, other))

    def __bool__(self) -> bool:
        return bool(self.thinking or self.content or self.tool_calls)

    @staticmethod
    def join(deltas: Iterable[Delta]) -> Delta:
        parts = [delta for delta in deltas if delta]
        return Delta(
            thinking="".join(part.thinking for part in parts),
            content="".join(part.content for part in parts),
            tool_calls=tuple(call for part in parts for call in part.tool_calls),
        )


class OutputParser(Protocol):
    def push(self, text: str) -> Delta:
        """The next piece of the reply."""
        ...

    def finish(self) -> Delta:
        """The reply has ended: what was held back."""
        ...


class Verbatim:
    """All is content."""

    def push(self, text: str) -> Delta:
        return Delta(content=text)

    def finish(self) -> Delta:
        return Delta()


class Chain:
    """One parser splits off the thinking, the next reads calls in what is left."""

    def __init__(self, thinking: OutputParser, calls: OutputParser) -> None:
        self._thinking = thinking
        self._calls = calls

    def push(self, text: str) -> Delta:
        return self._pass_on(self._thinking.push(text))

    def finish(self) -> Delta:
        return self._pass_on(self._thinking.finish()) + self._calls.finish()

    def _pass_on(self, split: Delta) -> Delta:
        return Delta(thinking=split.thinking) + self._calls.push(split.content)


class FirstCall:
    """Whatever a model writes, the reply has one call at most; further ones are dropped."""

    def __init__(self, parser: OutputParser) -> None:
        self._parser = parser
        self._has_called = False

    def push(self, text: str) -> Delta:
        return self._first(self._parser.push(text))

    def finish(self) -> Delta:
        return self._first(self._parser.finish())

    def _first(self, delta: Delta) -> Delta:
        allowed = 0 if self._has_called else 1
        self._has_called |= bool(delta.tool_calls)
        return replace(delta, tool_calls=delta.tool_calls[:allowed])


class Trimmer:
    """Text without the whitespace around it: that at its start is dropped, that at its end held.

    With `keeps_start` the whitespace at its start stays.
    """

    def __init__(self, *, keeps_start: bool = False) -> None:
        self.has_begun = keeps_start
        self._held: list[str] = []

    def push(self, text: str) -> str:
        if not self.has_begun:
            text = text.lstrip()
        if not text.strip():
            self._held += [text] if text else []
            return ""
        self.has_begun = True
        kept = text.rstrip()
        before = self.end()
        self._held = [text[len(kept) :]]
        return before + kept

    def end(self) -> str:
        """The whitespace that is held; none is afterwards."""
        held = "".join(self._held)
        self._held = []
        return held


def new_call(name: str, arguments: Mapping[str, Any]) -> ToolCall:
    letters = "".join(secrets.choice(_ID_LETTERS) for _ in range(_ID_LENGTH))
    return ToolCall(name, arguments, f"call_{letters}")
