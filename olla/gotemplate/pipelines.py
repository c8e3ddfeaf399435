"""The grammar inside an action: pipelines, commands and their operands.

Knows the names of functions, not what they do.
"""

from __future__ import annotations

from collections.abc import Callable

from olla.gotemplate import literals
from olla.gotemplate.lexer import Kind, Token
from olla.gotemplate.nodes import (
    Chain,
    Command,
    Dot,
    Field,
    Function,
    Literal,
    Operand,
    Pipeline,
    Variable,
)
from olla.gotemplate.stream import MAX_VARIABLES, Scope, Stream

FUNCTIONS = frozenset(
    [
        *("and", "or", "not", "eq", "ne", "lt", "le", "gt", "ge", "len", "index", "slice"),
        *("print", "printf", "println", "html", "js", "urlquery", "call"),
        *("json", "currentDate", "yesterdayDate", "toTypeScriptType"),
    ]
)

_CONSTANTS = {"true": True, "false": False, "nil": None}
_READERS: dict[Kind, Callable[[str], str | int | float]] = {
    Kind.NUMBER: literals.number,
    Kind.STRING: literals.string,
    Kind.CHAR: literals.character,
    Kind.RAW: lambda text: text[1:-1].replace("\r", ""),  # as in Go's source text
}


def parse_pipeline(stream: Stream, scope: Scope, where: str, max_targets: int = 1) -> Pipeline:
    """Read a pipeline up to what can no longer be part of it; `where` is for errors.

    `max_targets` is how many variables may stand before `:=` or `=`.

    Raises:
        TemplateError: there is none here.
    """
    offset = stream.token.offset
    targets, declares = _targets(stream, max_targets)
    commands = [_command(stream, scope, where)]
    while stream.take(Kind.PIPE):
        commands.append(_command(stream, scope, where))
        if isinstance(commands[-1].operands[0], Literal | Dot):
            raise stream.error("a value cannot take what comes before it", commands[-1].offset)
    slot = _declare if declares else _find
    return Pipeline(tuple(commands), tuple(slot(stream, scope, name) for name in targets), offset)


def read_literal(stream: Stream, token: Token) -> str | int | float:
    """
    Raises:
        TemplateError: it is spelt as a literal, but stands for nothing.
    """
    try:
        return _READERS[token.kind](token.text)
    except ValueError as error:
        raise stream.error(f"bad literal {token.text}: {error}", token.offset) from error


def _targets(stream: Stream, max_targets: int) -> tuple[tuple[Token, ...], bool]:
    """The variables that take the value, and whether they are new."""
    ends = (Kind.DECLARE, Kind.ASSIGN)
    if stream.token.kind is not Kind.VARIABLE:
        return (), False
    num_targets = 1
    if max_targets == 2 and (stream.peek(1), stream.peek(2)) == (Kind.COMMA, Kind.VARIABLE):
        num_targets = 2
    if stream.peek(2 * num_targets - 1) not in ends:
        return (), False
    tokens = [stream.next() for _ in range(2 * num_targets)]
    return tuple(tokens[:-1:2]), tokens[-1].kind is Kind.DECLARE


def _declare(stream: Stream, scope: Scope, token: Token) -> int:
    if scope.is_full:
        raise stream.error(f"there are more than {MAX_VARIABLES} variables", token.offset)
    return scope.declare(token.text)


def _find(stream: Stream, scope: Scope, token: Token) -> int:
    slot = scope.find(token.text)
    if slot is None:
        raise stream.error(f"undefined variable {token.text}", token.offset)
    return slot


def _command(stream: Stream, scope: Scope, where: str) -> Command:
    offset = stream.token.offset
    operands: list[Operand] = []
    while not operands or stream.token.spaced:
        operand = _operand(stream, scope, where)
        if operand is None:
            break
        operands.append(operand)
    if not operands:
        if stream.token.kind in {Kind.CLOSE, Kind.RIGHT, Kind.PIPE}:
            raise stream.error(f"missing value for {where}")
        raise stream.unexpected(where)
    if isinstance(operands[0], Literal) and operands[0].value is None:
        raise stream.error("nil is not a command", offset)
    return Command(tuple(operands), offset)


def _operand(stream: Stream, scope: Scope, where: str) -> Operand | None:
    """A term with the fields that follow it without a space; None where no term begins."""
    token = stream.token
    operand = _term(stream, scope, where)
    if operand is None:
        return None
    names = []
    while stream.token.kind is Kind.FIELD and not stream.token.spaced:
        names.append(stream.next().text[1:])
    if not names:
        return operand
    if isinstance(operand, Field):
        return Field((*operand.names, *names), operand.offset)
    if isinstance(operand, Variable):
        return Variable(operand.name, operand.slot, tuple(names), operand.offset)
    if isinstance(operand, Literal | Dot):
        raise stream.error(f"unexpected .{names[0]} after {token.text}", token.offset)
    return Chain(operand, tuple(names), operand.offset)


def _term(stream: Stream, scope: Scope, where: str) -> Operand | None:
    token = stream.token
    if token.kind is Kind.LEFT:
        stream.next()
        with stream.nested():
            pipeline = parse_pipeline(stream, scope, "parentheses")
        stream.expect(Kind.RIGHT, where)
        return pipeline
    if token.kind in _READERS:
        return Literal(read_literal(stream, stream.next()), token.offset)
    if token.kind is Kind.FIELD:
        return Field((stream.next().text[1:],), token.offset)
    if token.kind is Kind.VARIABLE:
        stream.next()
        return Variable(token.text, _find(stream, scope, token), (), token.offset)
    if token.kind is Kind.DOT:
        return Dot(stream.next().offset)
    return _word(stream) if token.kind is Kind.NAME else None


def _word(stream: Stream) -> Operand:
    token = stream.next()
    if token.text in _CONSTANTS:
        return Literal(_CONSTANTS[token.text], token.offset)
    if token.text not in FUNCTIONS:
        raise stream.error(f'function "{token.text}" not defined', token.offset)
    return Function(token.text, token.offset)
