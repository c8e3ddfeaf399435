"""Where the reply stands in a template: put there if missing, and cut off behind it.

A template that knows nothing of `.Messages` writes one exchange: prompt and response. For the
last exchange, whose response is still to come, only what precedes it is wanted (spec/modelfile.md
section 5.3). Where a condition decides between two places for the response, each is cut by itself.
"""

from __future__ import annotations

from dataclasses import replace

from olla.gotemplate.analysis import tree_variables
from olla.gotemplate.nodes import (
    Action,
    Body,
    Branch,
    Command,
    Definition,
    Field,
    Node,
    Pipeline,
    Range,
    Template,
    names,
)

_NAME = "Response"


def with_response(tree: Template) -> Template:
    """The template with `{{ .Response }}` at its end, if it has neither that nor `.Messages`."""
    if tree_variables(tree) & {"messages", "response"}:
        return tree
    offset = len(tree.text)
    command = Command((Field((_NAME,), offset),), offset)
    action = Action(Pipeline((command,), (), offset), offset)
    return _with_body(tree, (*tree.main.body, action))


def until_response(tree: Template) -> Template:
    """The template without what comes after the first `{{ .Response }}`."""
    return _with_body(tree, _cut(tree.main.body)[0])


def _with_body(tree: Template, body: Body) -> Template:
    return replace(tree, main=Definition(body, tree.main.num_slots))


def _cut(body: Body) -> tuple[Body, bool]:
    """The nodes up to the response, and whether it is among them."""
    kept: list[Node] = []
    for node in body:
        cut, is_found = _cut_node(node)
        kept.append(cut)
        if is_found:
            return tuple(kept), True
    return body, False


def _cut_node(node: Node) -> tuple[Node, bool]:
    if isinstance(node, Action):
        return node, _NAME in names(node.pipeline)
    if isinstance(node, Range):
        body, in_body = _cut(node.body)
        otherwise, in_otherwise = _cut(node.otherwise)
        return replace(node, body=body, otherwise=otherwise), in_body or in_otherwise
    if isinstance(node, Branch):
        cuts = [(pipeline, *_cut(body)) for pipeline, body in node.branches]
        otherwise, in_otherwise = _cut(node.otherwise)
        branches = tuple((pipeline, body) for pipeline, body, _ in cuts)
        is_found = in_otherwise or any(found for *_, found in cuts)
        return replace(node, branches=branches, otherwise=otherwise), is_found
    return node, False
