"""GenericCalls: calls of a model of which only the tag before its calls is known.

Behind the tag, each JSON object is a call if it says which of the tools on offer it is for
(spec/modelfile.md sections 6 and 10.4): in its `name`, or by having arguments under the tool's
own name, or because the name stands before it. What is no call is shown when the reply ends, if
there was no call at all; else it is what models write between calls, and nobody sees it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from olla.messages import ToolCall
from olla.parsers.base import Delta, NotACall, Tools, new_call
from olla.parsers.bodies import BracketBody
from olla.parsers.json_calls import arguments_of, read_json_object
from olla.parsers.tags import Tags, TagScanner, tags_of


class GenericCalls:
    def __init__(self, tag: str, tools: Tools) -> None:
        """`tag`: "{" and "[" are part of the call, and count at the start of the reply only."""
        self._tag = tag
        self._is_bracket = tag in {"{", "["}
        self._finder = CallFinder(tools)
        self._content = tags_of(tag)
        self._between = tags_of("{", "[", "]")
        self._blank: list[str] = []
        self._scanner = TagScanner()
        self._is_behind_tag = False
        self._is_verbatim = False
        self._behind: list[str] = []
        self._num_open = 0
        self._num_calls = 0
        self._label: list[str] = []
        self._body: BracketBody | None = None

    def push(self, text: str) -> Delta:
        self._scanner.push(text)
        return Delta.join(self._advance())

    def finish(self) -> Delta:
        self._scanner.close()
        rest = Delta.join(self._advance())
        unfinished = self._body.text if self._body else ""
        if self._num_calls:
            return rest + Delta(content=unfinished)
        return rest + Delta(content="".join((*self._blank, *self._behind)) + unfinished)

    def _advance(self) -> Iterator[Delta]:
        is_at_tag = True
        while is_at_tag:
            text, tag = self._scanner.next(self._wanted())
            is_at_tag = bool(tag)
            if not self._is_behind_tag:
                yield self._take_content(text, tag)
            elif self._body is None:
                yield self._take_label(text, tag)
            elif self._body.take(text, tag):
                yield self._end_object(self._body.text)

    def _wanted(self) -> Tags:
        if not self._is_behind_tag:
            return self._content
        return self._between if self._body is None else self._body.wanted

    def _take_content(self, text: str, tag: str) -> Delta:
        if self._is_bracket and not self._is_verbatim:
            return self._take_start(text, tag)
        self._is_behind_tag = bool(tag)
        return Delta(content=text)

    def _take_start(self, text: str, tag: str) -> Delta:
        if text.strip():
            return self._give_up(text + tag)
        self._blank.append(text)
        if not tag:
            return Delta()
        self._is_behind_tag = True
        return self._take_label("", tag)

    def _give_up(self, text: str) -> Delta:
        """There is no call and never will be: all is content."""
        held = "".join((*self._blank, *self._behind))
        self._blank, self._behind, self._label = [], [], []
        self._is_behind_tag, self._is_verbatim = False, True
        self._content = tags_of()
        return Delta(content=held + text)

    def _take_label(self, text: str, tag: str) -> Delta:
        self._label.append(text)
        self._behind.append(text)
        if tag == "{":
            self._body = BracketBody()
            self._body.take("", tag)
            return Delta()
        self._behind.append(tag)
        self._num_open += {"[": 1, "]": -1}.get(tag, 0)
        if tag == "]" and self._is_closed:
            return self._give_up("")
        return Delta()

    def _end_object(self, text: str) -> Delta:
        calls = self._finder.calls("".join(self._label), text)
        self._body = None
        self._label = []
        self._behind.append(text)
        self._num_calls += len(calls)
        if self._tag == "{" and self._is_closed:
            return self._give_up("")
        return Delta(tool_calls=calls)

    @property
    def _is_closed(self) -> bool:
        """The bracket that the reply began with is closed, and no call was in it."""
        return self._is_bracket and not self._num_calls and self._num_open <= 0


class CallFinder:
    """Which of the tools a JSON object calls."""

    def __init__(self, tools: Tools) -> None:
        longest_first = sorted((tool.name for tool in tools if tool.name), key=len, reverse=True)
        self._names = frozenset(longest_first)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def calls(self, label: str, text: str) -> tuple[ToolCall, ...]:
        """The calls in one object; `label` is the text before it. Empty if there are none."""
        try:
            value = read_json_object(text)
        except NotACall:
            return ()
        named = tuple(self._named(value)) or tuple(self._keyed(value))
        found = self._pattern.search(label)
        if named or not found:
            return named
        return (new_call(found[0], arguments_of(value) or value),)

    def _named(self, value: Any) -> Iterator[ToolCall]:
        if isinstance(value, dict):
            arguments = arguments_of(value)
            if value.get("name") in self._names and arguments is not None:
                yield new_call(value["name"], arguments)
                return
        for item in _inside(value):
            yield from self._named(item)

    def _keyed(self, value: Any) -> Iterator[ToolCall]:
        if isinstance(value, dict):
            for name, arguments in value.items():
                if name in self._names and isinstance(arguments, dict):
                    yield new_call(name, arguments)
                    return
        for item in _inside(value):
            yield from self._keyed(item)


def _inside(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []
