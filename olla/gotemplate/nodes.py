"""The tree of a parsed template. Frozen values; they know neither text nor data.

`offset` is where a node stands in the text, for errors. Variables are numbered within their
template: slot 0 is `$`, and a slot is used again when the block of its variable is over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Literal:
    value: str | int | float | bool | None
    offset: int


@dataclass(frozen=True, slots=True)
class Dot:
    offset: int


@dataclass(frozen=True, slots=True)
class Field:
    """`.A.B`"""

    names: tuple[str, ...]
    offset: int


@dataclass(frozen=True, slots=True)
class Variable:
    """`$name.A.B`; `name` has its `$`."""

    name: str
    slot: int
    names: tuple[str, ...]
    offset: int


@dataclass(frozen=True, slots=True)
class Function:
    name: str
    offset: int


@dataclass(frozen=True, slots=True)
class Chain:
    """`(pipeline).A.B`"""

    operand: Operand
    names: tuple[str, ...]
    offset: int


@dataclass(frozen=True, slots=True)
class Command:
    operands: tuple[Operand, ...]
    offset: int


@dataclass(frozen=True, slots=True)
class Pipeline:
    """`slots` are the variables that take the value, declared here or before."""

    commands: tuple[Command, ...]
    slots: tuple[int, ...]
    offset: int


Operand = Literal | Dot | Field | Variable | Function | Chain | Pipeline


@dataclass(frozen=True, slots=True)
class Text:
    text: str
    offset: int


@dataclass(frozen=True, slots=True)
class Action:
    pipeline: Pipeline
    offset: int


@dataclass(frozen=True, slots=True)
class Branch:
    """`if` with its `else if`s, or `with`, which moves the dot."""

    moves_dot: bool
    branches: tuple[tuple[Pipeline, Body], ...]
    otherwise: Body
    offset: int


@dataclass(frozen=True, slots=True)
class Range:
    pipeline: Pipeline
    body: Body
    otherwise: Body
    offset: int


@dataclass(frozen=True, slots=True)
class Leave:
    """`break` or `continue`."""

    is_break: bool
    offset: int


@dataclass(frozen=True, slots=True)
class Include:
    """`template`, and `block` where it stands."""

    name: str
    pipeline: Pipeline | None
    offset: int


Node = Text | Action | Branch | Range | Leave | Include
Body = tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Definition:
    body: Body
    num_slots: int = 1


@dataclass(frozen=True, slots=True)
class Template:
    """A whole file: its text, what it executes, and what `define` and `block` name."""

    text: str
    main: Definition
    definitions: Mapping[str, Definition]


def bodies(node: Node) -> Iterator[Body]:
    """The lists of nodes directly below this one."""
    if isinstance(node, Branch):
        yield from (body for _, body in node.branches)
        yield node.otherwise
    if isinstance(node, Range):
        yield node.body
        yield node.otherwise


def pipelines(node: Node) -> Iterator[Pipeline]:
    """The pipelines that stand in this node itself."""
    if isinstance(node, Action | Range):
        yield node.pipeline
    if isinstance(node, Include) and node.pipeline:
        yield node.pipeline
    if isinstance(node, Branch):
        yield from (pipeline for pipeline, _ in node.branches)


def names(operand: Operand) -> Iterator[str]:
    """Every name of a field or a variable in here, such as `Messages` and `$last`."""
    if isinstance(operand, Variable):
        yield operand.name
    if isinstance(operand, Field | Variable | Chain):
        yield from operand.names
    if isinstance(operand, Chain):
        yield from names(operand.operand)
    if isinstance(operand, Pipeline):
        for command in operand.commands:
            for part in command.operands:
                yield from names(part)


def walk(body: Body) -> Iterator[Node]:
    """Every node below, each before those that it holds."""
    for node in body:
        yield node
        for inner in bodies(node):
            yield from walk(inner)
