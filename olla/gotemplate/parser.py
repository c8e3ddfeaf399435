"""Template text -> tree: the grammar of blocks. That of actions is in `pipelines`.

Invariant: nesting is limited (see `stream`), so that neither parsing nor execution meets
Python's own limit. Errors name a line and a column.
"""

from __future__ import annotations

from olla.gotemplate.lexer import Kind
from olla.gotemplate.nodes import (
    Action,
    Body,
    Branch,
    Definition,
    Include,
    Leave,
    Node,
    Pipeline,
    Range,
    Template,
    Text,
)
from olla.gotemplate.pipelines import parse_pipeline, read_literal
from olla.gotemplate.stream import Scope, Stream

_KEYWORDS = frozenset(
    ["if", "with", "range", "else", "end", "define", "template", "block", "break", "continue"]
)


def parse(text: str) -> Template:
    """Read a template.

    Raises:
        TemplateError: it is not one.
    """
    return _Parser(text).template()


class _Parser:
    """`scope` and `num_loops` are those of the definition that is being read."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._stream = Stream(text)
        self._scope = Scope()
        self._num_loops = 0
        self._definitions: dict[str, Definition] = {}

    def template(self) -> Template:
        body, end = self._body(is_top=True)
        if end:
            raise self._stream.error(f"unexpected {{{{{end}}}}}")
        return Template(self._text, Definition(body, self._scope.num_slots), self._definitions)

    def _body(self, is_top: bool = False) -> tuple[Body, str]:
        """Nodes up to `else`, `end` or the end of the text (""), and which of them it is."""
        stream = self._stream
        nodes: list[Node] = []
        while token := stream.take(Kind.TEXT) or stream.take(Kind.OPEN):
            if token.kind is Kind.TEXT:
                nodes.append(Text(token.text, token.offset))
                continue
            word = stream.token.text if stream.token.kind is Kind.NAME else ""
            if word in {"else", "end"}:
                stream.next()
                return tuple(nodes), word
            if word == "define":
                self._define(is_top)
            else:
                nodes.append(self._node(word, token.offset))
        return tuple(nodes), ""

    def _node(self, word: str, offset: int) -> Node:
        if word not in _KEYWORDS:
            return Action(self._pipeline("an action"), offset)
        self._stream.next()
        if word in {"break", "continue"}:
            return self._leave(word, offset)
        if word == "template":
            return self._include(offset)
        if word == "block":
            return self._block(offset)
        with self._stream.nested(), self._scope.block():
            return self._range(offset) if word == "range" else self._branch(word, offset)

    def _pipeline(self, where: str, max_targets: int = 1) -> Pipeline:
        """A pipeline, and the end of its action."""
        pipeline = parse_pipeline(self._stream, self._scope, where, max_targets)
        self._stream.expect(Kind.CLOSE, where)
        return pipeline

    def _branch(self, word: str, offset: int) -> Branch:
        branches: list[tuple[Pipeline, Body]] = []
        otherwise: Body = ()
        end = word
        while end == word:
            pipeline = self._pipeline(word)
            with self._scope.block():
                body, end = self._body()
            branches.append((pipeline, body))
            if end == "else" and self._stream.token.text == word:
                end = self._stream.next().text
        if end == "else":
            otherwise, end = self._else()
        self._close(end, word)
        return Branch(word == "with", tuple(branches), otherwise, offset)

    def _range(self, offset: int) -> Range:
        pipeline = self._pipeline("range", max_targets=2)
        otherwise: Body = ()
        self._num_loops += 1
        with self._scope.block():
            body, end = self._body()
        self._num_loops -= 1
        if end == "else":
            otherwise, end = self._else()
        self._close(end, "range")
        return Range(pipeline, body, otherwise, offset)

    def _else(self) -> tuple[Body, str]:
        self._stream.expect(Kind.CLOSE, "else")
        with self._scope.block():
            return self._body()

    def _close(self, end: str, word: str) -> None:
        if end != "end":
            found = "a second {{else}}" if end else "the end of the template"
            raise self._stream.error(f"expected {{{{end}}}} of {{{{{word}}}}}, found {found}")
        self._stream.expect(Kind.CLOSE, "end")

    def _leave(self, word: str, offset: int) -> Leave:
        if not self._num_loops:
            raise self._stream.error(f"{{{{{word}}}}} outside {{{{range}}}}", offset)
        self._stream.expect(Kind.CLOSE, word)
        return Leave(word == "break", offset)

    def _define(self, is_top: bool) -> None:
        if not is_top:
            raise self._stream.error("{{define}} inside another block")
        self._stream.next()
        name = self._name("define")
        self._stream.expect(Kind.CLOSE, "define")
        self._definition(name, "define")

    def _include(self, offset: int) -> Include:
        name = self._name("template")
        if self._stream.take(Kind.CLOSE):
            return Include(name, None, offset)
        return Include(name, self._pipeline("template"), offset)

    def _block(self, offset: int) -> Include:
        name = self._name("block")
        pipeline = self._pipeline("block")
        with self._stream.nested():
            self._definition(name, "block")
        return Include(name, pipeline, offset)

    def _definition(self, name: str, word: str) -> None:
        """A template of its own: it sees none of the variables round it."""
        outer = self._scope, self._num_loops
        self._scope, self._num_loops = Scope(), 0
        body, end = self._body()
        self._definitions[name] = Definition(body, self._scope.num_slots)
        self._scope, self._num_loops = outer
        self._close(end, word)

    def _name(self, where: str) -> str:
        token = self._stream.next()
        if token.kind not in {Kind.STRING, Kind.RAW}:
            raise self._stream.error(f"{{{{{where}}}}} needs a name in quotes", token.offset)
        return str(read_literal(self._stream, token))
