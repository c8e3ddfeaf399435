"""TaggedCalls: content with calls between tags; and CallSyntax, all that formats differ in.

Whitespace around a call is dropped. A body that cannot be read as a call is shown as content,
without its tags: the reply is not lost, and nothing else depends on it (spec/api.md section 5.4
would let the request fail). When the reply ends inside a body that is a whole call but for its
last tag, it is a call: many models end with a special token instead of the tag.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from olla.messages import ToolCall
from olla.parsers.base import Delta, NotACall, ToolCallFormat, Tools, Trimmer
from olla.parsers.bodies import Body, BracketBody, Quote, QuotedBody
from olla.parsers.tags import TagScanner, tags_of

ReadCalls = Callable[[str, Tools], tuple[ToolCall, ...]]


@dataclass(frozen=True, slots=True)
class CallSyntax:
    """One way to write calls.

    `read` turns a body into calls or raises NotACall. Without `end` the body ends when its
    brackets are closed. `quotes` are where the end tag is text, `ignored` what is no bracket.
    `hidden` are tags in the content that nobody sees.
    """

    begin: str
    end: str
    read: ReadCalls
    format: ToolCallFormat | None = None
    quotes: tuple[Quote, ...] = ()
    ignored: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()

    def body(self) -> Body:
        """A call that is not ended before the next one begins ends there."""
        if self.end:
            return QuotedBody((self.end, self.begin), self.quotes)
        return BracketBody(self.ignored)


class TaggedCalls:
    def __init__(self, syntax: CallSyntax, tools: Tools) -> None:
        self._syntax = syntax
        self._tools = tools
        self._outside = tags_of(syntax.begin, *syntax.hidden)
        self._content = Trimmer(keeps_start=True)
        self._body: Body | None = None
        self._gap = ""
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
            text, tag = self._scanner.next(self._outside if body is None else body.wanted)
            is_at_tag = bool(tag)
            if body is None:
                yield self._take(text, tag)
            elif body.take(text, tag):
                yield self._end_body(body)
                self._open_body(tag)

    def _take(self, text: str, tag: str) -> Delta:
        shown = self._content.push(text)
        if tag:
            self._gap = self._content.end()
            self._content = Trimmer()
        self._open_body(tag)
        return Delta(content=shown)

    def _open_body(self, tag: str) -> None:
        if tag == self._syntax.begin:
            self._body = self._syntax.body()

    def _end_body(self, body: Body) -> Delta:
        self._body = None
        try:
            calls = self._syntax.read(body.text, self._tools)
        except NotACall:
            self._content = Trimmer(keeps_start=True)
            return Delta(content=self._gap + body.text)
        self._content = Trimmer()
        return Delta(tool_calls=calls)
