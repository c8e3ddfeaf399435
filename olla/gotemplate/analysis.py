"""What a Go template tells of its model without being executed (spec/modelfile.md sections 6, 8).

Works on text that nobody has checked: a template that does not parse tells nothing. Takes time
in proportion to the text, whose length the lexer limits.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from olla.errors import TemplateError
from olla.gotemplate.nodes import (
    Action,
    Body,
    Branch,
    Definition,
    Node,
    Range,
    Template,
    Text,
    bodies,
    names,
    pipelines,
    walk,
)
from olla.gotemplate.parser import parse

MAX_REMEMBERED = 64

_EMPTY = Template("", Definition(()), {})


def is_valid(template: str) -> bool:
    return not template or _parsed(template) is not _EMPTY


def variables(template: str) -> frozenset[str]:
    """The names of all fields and variables in use, in lower case."""
    return tree_variables(_parsed(template))


def thinking_tags(template: str) -> tuple[str, str] | None:
    """The texts round `{{ .Thinking }}` in a range over `.Messages`, such as `<think>`."""
    for tree_body in _all_bodies(_parsed(template)):
        for body in _bodies_for_messages(tree_body):
            if tags := _tags_round_thinking(body):
                return tags
    return None


def tool_tag(template: str) -> str | None:
    """What the model writes before its calls, or "{" if nothing; None without calls in it."""
    for tree_body in _all_bodies(_parsed(template)):
        for node in walk(tree_body):
            if isinstance(node, Branch | Range) and (body := _calls(node)):
                texts = (inner.text for inner in walk(body) if isinstance(inner, Text))
                first = next((text for text in texts if text.strip()), "")
                return first.partition("{")[0].strip() or "{"
    return None


def tree_variables(tree: Template) -> frozenset[str]:
    """`variables` of a template that has been parsed."""
    return frozenset(
        name.lower()
        for body in _all_bodies(tree)
        for node in walk(body)
        for pipeline in pipelines(node)
        for name in names(pipeline)
    )


@lru_cache(MAX_REMEMBERED)
def _parsed(template: str) -> Template:
    """Lists of models ask for the same templates again and again."""
    try:
        return parse(template)
    except TemplateError:
        return _EMPTY


def _all_bodies(tree: Template) -> Iterator[Body]:
    yield tree.main.body
    yield from (definition.body for definition in tree.definitions.values())


def _bodies_for_messages(body: Body, is_inside: bool = False) -> Iterator[Body]:
    """Every list of nodes inside a range over `.Messages`."""
    if is_inside:
        yield body
    for node in body:
        is_range = isinstance(node, Range) and _mentions(node, "Messages")
        for inner in bodies(node):
            yield from _bodies_for_messages(inner, is_inside or is_range)


def _mentions(node: Node, name: str) -> bool:
    return any(name in names(pipeline) for pipeline in pipelines(node))


def _tags_round_thinking(body: Body) -> tuple[str, str] | None:
    prints = any(isinstance(node, Action) and _mentions(node, "Thinking") for node in body)
    if not prints or not isinstance(body[0], Text) or not isinstance(body[-1], Text):
        return None
    opening, closing = body[0].text.strip(), body[-1].text.strip()
    return (opening, closing) if opening and closing else None


def _calls(node: Branch | Range) -> Body:
    """What is executed where there are tool calls."""
    if isinstance(node, Range):
        return node.body if _mentions(node, "ToolCalls") else ()
    for pipeline, body in node.branches:
        if "ToolCalls" in names(pipeline):
            return body
    return ()
