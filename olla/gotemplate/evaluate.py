"""Tree + data -> text. Knows Go's rules of execution, not what the data mean.

A field that a map lacks is nil, and nil prints as `<no value>` (`missingkey=zero`). Ends within
the budget, and within Python's own limit of recursion, whatever the template.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date
from enum import Enum, auto
from typing import Any

from olla.errors import TemplateError
from olla.gotemplate import functions
from olla.gotemplate.budget import Budget
from olla.gotemplate.lexer import error_at
from olla.gotemplate.nodes import (
    Action,
    Body,
    Branch,
    Chain,
    Command,
    Definition,
    Dot,
    Field,
    Function,
    Include,
    Leave,
    Literal,
    Operand,
    Pipeline,
    Range,
    Template,
    Text,
    Variable,
)
from olla.gotemplate.values import Kind, Refused, Struct, kind_of, text_of, truth

MAX_DEPTH = 80

_NOTHING = object()
"""No value comes down the pipe; nil is one."""


class _Signal(Enum):
    BREAK = auto()
    CONTINUE = auto()


def execute(
    template: Template, data: Any, budget: Budget | None = None, today: date | None = None
) -> str:
    """Run a template on its data; by default, today and with a budget of its own.

    Raises:
        TemplateError: it asks for what the data cannot give, or runs past a limit.
    """
    run = _Run(template, budget or Budget(), today or date.today())
    run.definition(template.main, data)
    return "".join(run.pieces)


class _Run:
    """One execution. A frame holds the variables of the definition that runs."""

    def __init__(self, template: Template, budget: Budget, today: date) -> None:
        self.pieces: list[str] = []
        self._template = template
        self._budget = budget
        self._today = today
        self._depth = 0

    def definition(self, definition: Definition, data: Any) -> None:
        self._budget.charge(definition.num_slots)
        frame = [data] + [None] * (definition.num_slots - 1)
        self._body(definition.body, frame, data)

    def _error(self, offset: int, what: str) -> TemplateError:
        return error_at(self._template.text, offset, what)

    # nodes

    def _body(self, body: Body, frame: list[Any], dot: Any) -> _Signal | None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise TemplateError(f"template error: it goes more than {MAX_DEPTH} levels deep")
        for node in body:
            self._budget.charge()
            if isinstance(node, Text):
                self._write(node.text)
            elif isinstance(node, Action):
                self._action(node, frame, dot)
            elif signal := self._control(node, frame, dot):
                self._depth -= 1
                return signal
        self._depth -= 1
        return None

    def _control(
        self, node: Branch | Range | Include | Leave, frame: list[Any], dot: Any
    ) -> _Signal | None:
        if isinstance(node, Branch):
            return self._branch(node, frame, dot)
        if isinstance(node, Range):
            return self._range(node, frame, dot)
        if isinstance(node, Leave):
            return _Signal.BREAK if node.is_break else _Signal.CONTINUE
        self._include(node, frame, dot)
        return None

    def _action(self, node: Action, frame: list[Any], dot: Any) -> None:
        value = self._pipeline(node.pipeline, frame, dot)
        if node.pipeline.slots:
            return
        if isinstance(value, str):
            self._write(value)
        else:
            text = "<no value>" if value is None else self._text(value, node.offset)
            self._write(self._budget.charge_made(text))

    def _branch(self, node: Branch, frame: list[Any], dot: Any) -> _Signal | None:
        for pipeline, body in node.branches:
            value = self._pipeline(pipeline, frame, dot)
            if truth(value):
                return self._body(body, frame, value if node.moves_dot else dot)
        return self._body(node.otherwise, frame, dot)

    def _range(self, node: Range, frame: list[Any], dot: Any) -> _Signal | None:
        slots = node.pipeline.slots
        value = self._pipeline(node.pipeline, frame, dot, assigns=False)
        is_empty = True
        for index, item in self._items(value, node.offset):
            is_empty = False
            self._budget.charge()
            if slots:
                frame[slots[0]] = index if len(slots) == 2 else item
                frame[slots[-1]] = item
            if self._body(node.body, frame, item) is _Signal.BREAK:
                break
        return self._body(node.otherwise, frame, dot) if is_empty else None

    def _items(self, value: Any, offset: int) -> Iterable[tuple[Any, Any]]:
        if value is None:
            return ()
        if isinstance(value, list | tuple):
            return enumerate(value)
        if isinstance(value, Mapping):
            self._budget.charge(len(value))
            return ((key, value[key]) for key in sorted(value))
        if kind_of(value) is Kind.INT:
            return ((index, index) for index in range(value))
        raise self._error(offset, f"range cannot go over a value of type {kind_of(value)}")

    def _include(self, node: Include, frame: list[Any], dot: Any) -> None:
        definition = self._template.definitions.get(node.name)
        if definition is None:
            raise self._error(node.offset, f'template "{node.name[:100]}" not defined')
        data = self._pipeline(node.pipeline, frame, dot) if node.pipeline else None
        self.definition(definition, data)

    def _write(self, text: str) -> None:
        self.pieces.append(self._budget.charge_output(text))

    def _text(self, value: Any, offset: int) -> str:
        try:
            return text_of(value)
        except Refused as error:
            raise self._error(offset, str(error)) from error

    # pipelines

    def _pipeline(
        self, pipeline: Pipeline, frame: list[Any], dot: Any, *, assigns: bool = True
    ) -> Any:
        value: Any = _NOTHING
        for command in pipeline.commands:
            value = self._command(command, frame, dot, value)
        if assigns:
            for slot in pipeline.slots:
                frame[slot] = value
        return value

    def _command(self, command: Command, frame: list[Any], dot: Any, piped: Any) -> Any:
        self._budget.charge()
        first, *others = command.operands
        if isinstance(first, Function):
            return self._call(first, others, frame, dot, piped)
        if others or piped is not _NOTHING:
            raise self._error(first.offset, "arguments are given to what is no function")
        return self._value(first, frame, dot)

    def _call(
        self, function: Function, others: list[Operand], frame: list[Any], dot: Any, piped: Any
    ) -> Any:
        if function.name in {"and", "or"}:
            return self._first_that_decides(function, others, frame, dot, piped)
        arguments = [self._value(operand, frame, dot) for operand in others]
        if piped is not _NOTHING:
            arguments.append(piped)
        self._budget.charge_call(arguments)
        try:
            result = functions.call(function.name, arguments, self._today)
        except Refused as error:
            raise self._error(function.offset, str(error)) from error
        return self._budget.charge_made(result) if isinstance(result, str) else result

    def _first_that_decides(
        self, function: Function, others: list[Operand], frame: list[Any], dot: Any, piped: Any
    ) -> Any:
        """`and`: the first false argument; `or`: the first true one; else the last."""
        if not others and piped is _NOTHING:
            raise self._error(function.offset, f"{function.name} takes at least 1 argument")
        value: Any = None
        for operand in others:
            value = self._value(operand, frame, dot)
            if truth(value) is (function.name == "or"):
                return value
        return value if piped is _NOTHING else piped

    def _value(self, operand: Operand, frame: list[Any], dot: Any) -> Any:
        if isinstance(operand, Literal):
            return operand.value
        if isinstance(operand, Pipeline):
            return self._pipeline(operand, frame, dot)
        if isinstance(operand, Function):
            return self._call(operand, [], frame, dot, _NOTHING)
        if isinstance(operand, Dot):
            return dot
        if isinstance(operand, Field):
            value = dot
        elif isinstance(operand, Variable):
            value = frame[operand.slot]
        else:
            value = self._value(operand.operand, frame, dot)
        return self._fields(value, operand, operand.names)

    def _fields(self, value: Any, operand: Field | Variable | Chain, names: tuple[str, ...]) -> Any:
        for name in names:
            if isinstance(value, Mapping):
                value = value.get(name)
            elif isinstance(value, Struct) and name in value.fields:
                value = value.fields[name]
            elif value is not None:
                where = f"can't evaluate field {name} in a value of type {kind_of(value)}"
                raise self._error(operand.offset, where)
        return value
