"""LlamaCalls: calls as Llama 3 writes them: the reply is JSON, {"name": N, "parameters": {...}}.

It may stand behind <|python_tag|>; several calls are separated by semicolons. Without that tag
only a reply that begins with a call of a tool on offer is one, since other JSON is content.
"""

from __future__ import annotations

from collections.abc import Iterator

from olla.parsers.base import CallStyle, Delta, NotACall, ToolCallFormat, Tools, Trimmer
from olla.parsers.bodies import BracketBody
from olla.parsers.json_calls import read_json_calls
from olla.parsers.tags import Tags, TagScanner, tags_of

PYTHON_TAG = "<|python_tag|>"
LLAMA3_FORMAT = ToolCallFormat("", "", CallStyle.JSON_PARAMETERS)

_SEPARATORS = " \t\r\n;,"


class LlamaCalls:
    def __init__(self, tools: Tools) -> None:
        self._names = {tool.name for tool in tools}
        self._content = Trimmer(keeps_start=True)
        self._may_begin = True  # nothing but calls has been read
        self._has_called = False
        self._body: BracketBody | None = None
        self._is_tagged = False
        self._scanner = TagScanner()

    def push(self, text: str) -> Delta:
        self._scanner.push(text)
        return Delta.join(self._advance())

    def finish(self) -> Delta:
        self._scanner.close()
        rest = Delta.join(self._advance())
        if self._body is not None:
            return rest + self._end_body(self._body)
        return rest + Delta(content=self._content.end())

    def _advance(self) -> Iterator[Delta]:
        is_at_tag = True
        while is_at_tag:
            body = self._body
            text, tag = self._scanner.next(self._wanted() if body is None else body.wanted)
            is_at_tag = bool(tag)
            if body is None:
                yield self._take(text, tag)
            elif body.take(text, tag):
                yield self._end_body(body)

    def _wanted(self) -> Tags:
        return tags_of(PYTHON_TAG, "{") if self._may_begin else tags_of(PYTHON_TAG)

    def _take(self, text: str, tag: str) -> Delta:
        if self._has_called and self._may_begin:
            text = text.lstrip(_SEPARATORS)
        self._may_begin = self._may_begin and not text.strip()
        if tag == PYTHON_TAG or (tag and self._may_begin):
            shown = self._content.push(text)
            self._body, self._is_tagged = BracketBody(), tag == PYTHON_TAG
            if not self._is_tagged:
                self._body.take("", tag)
            return Delta(content=shown)
        return Delta(content=self._content.push(text + tag))

    def _end_body(self, body: BracketBody) -> Delta:
        self._body = None
        try:
            calls = read_json_calls(body.text)
        except NotACall:
            calls = ()
        if calls and (self._is_tagged or all(call.name in self._names for call in calls)):
            self._content = Trimmer()
            self._may_begin = self._has_called = True
            return Delta(tool_calls=calls)
        self._may_begin = False
        return Delta(content=self._content.push(body.text))
