"""The Jinja environment of chat templates: what transformers offers them, within limits.

Owns the surroundings of a template; knows nothing about messages. It offers what
`apply_chat_template` of transformers does, so that prompts are equal. Templates come with
models, so they are not trusted: the sandbox is immutable, and whatever makes a value (operators,
literals, filters, calls, joins) asks olla.renderers.limits. One environment serves one template
and one render at a time. Filters that no chat template needs and that run long in C are left out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from functools import wraps
from types import CodeType
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import make_attrgetter
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace, pass_environment

from olla.renderers.limits import (
    LimitReached,
    Limits,
    check_format,
    check_indent,
    check_operation,
    check_size,
    check_width,
)

MAX_CODE_CHARS = 2**20

_LEFT_OUT = ("pprint", "striptags", "urlencode", "urlize", "wordwrap", "xmlattr")
_WITH_WIDTH = frozenset({"batch", "center", "round", "slice", "tojson", "trim"})
_METHODS_WITH_WIDTH = frozenset({"center", "ljust", "rjust", "zfill", "strip", "lstrip", "rstrip"})
_REFUSED_METHODS = frozenset({"expandtabs", "translate", "to_bytes"})

_Function = Callable[..., Any]


class _Limited(CodeGenerator):
    """Code that charges for every literal and every `~`, which the sandbox cannot intercept."""

    def visit_List(self, node: nodes.List, frame: Frame) -> None:  # noqa: N802
        self._charge(super().visit_List, node, frame)

    def visit_Dict(self, node: nodes.Dict, frame: Frame) -> None:  # noqa: N802
        self._charge(super().visit_Dict, node, frame)

    def visit_Tuple(self, node: nodes.Tuple, frame: Frame) -> None:  # noqa: N802
        if node.ctx == "load":
            self._charge(super().visit_Tuple, node, frame)
        else:
            super().visit_Tuple(node, frame)

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802
        self.write("environment.concat(map(str, (")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write(")))")

    def _charge(self, visit: _Function, node: nodes.Expr, frame: Frame) -> None:
        self.write("environment.limits.charge(")
        visit(node, frame)
        self.write(")")


class _Generation(Extension):
    """`{% generation %}` marks the model's own text for training; a prompt has it unchanged."""

    tags = {"generation"}  # noqa: RUF012 (as jinja2 declares it)

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class Sandbox(ImmutableSandboxedEnvironment):
    """`limits` is the account of the render that runs now."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})
    code_generator_class = _Limited

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        self.limits = Limits()
        self.globals = {
            "range": self.globals["range"],
            "cycler": self.globals["cycler"],
            "joiner": self.globals["joiner"],
            "dict": _dict,
            "namespace": self._namespace,
            "raise_exception": _raise_exception,
            "strftime_now": lambda form: datetime.now().strftime(form),  # local time, as there
        }
        self.filters |= {"join": self._join, "replace": _with_value(self._replace)}
        self.filters["tojson"] = self._tojson
        self.filters = {
            name: self._guard(name, function)
            for name, function in self.filters.items()
            if name not in _LEFT_OUT
        }

    def _compile(self, source: str, filename: str) -> CodeType:
        """Python's compiler is in C: nothing interrupts it, so what it gets is bounded."""
        if len(source) > MAX_CODE_CHARS:
            raise LimitReached(f"it becomes more than {MAX_CODE_CHARS} characters of code")
        return super()._compile(source, filename)

    def concat(self, pieces: Iterable[str]) -> str:
        """Every join of text that a template does ends here: output, blocks, macros, `~`."""
        kept = []
        size = 0
        for piece in pieces:
            size += len(piece)
            check_size(size)
            kept.append(piece)
        return self.limits.charge("".join(kept))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        check_operation(operator, left, right)
        return self.limits.charge(super().call_binop(context, operator, left, right))

    def call(self, context: Context, function: Any, *args: Any, **kwargs: Any) -> Any:
        owner = getattr(function, "__self__", None)
        if isinstance(owner, str | bytes | int):
            function = self._method(owner, function)
        return self.limits.charge(super().call(context, function, *args, **kwargs))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None

        def checked(*args: Any, **kwargs: Any) -> str:
            check_format(value.__self__, (args, kwargs))
            return wrapped(*args, **kwargs)

        return checked

    def _method(self, owner: str | bytes | int, method: _Function) -> _Function:
        """A stand-in for a method of a string or a number that could make something huge."""
        name = method.__name__
        if name in _REFUSED_METHODS or (isinstance(owner, bytes) and name != "decode"):
            raise LimitReached(f"{name}() may not be used in a template")
        if isinstance(owner, str) and name == "join":
            return lambda values: self.concat(_between(owner, values))
        if isinstance(owner, str) and name == "replace":
            return lambda *args: self._replace(owner, *args)
        if name in _METHODS_WITH_WIDTH:
            return _with_checked_width(method, skip=0)
        return method

    def _guard(self, name: str, function: _Function) -> _Function:
        num_before = 2 if hasattr(function, "jinja_pass_arg") else 1
        checked = _with_checked_width(function, num_before) if name in _WITH_WIDTH else function

        @wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            if name == "format":
                check_format(str(args[0]), (args[1:], kwargs))
            if name == "indent":
                check_indent(str(args[0]), *args[1:], **kwargs)
            if name == "sum" and (len(args) > num_before + 1 or "start" in kwargs):
                raise LimitReached("sum() may not have a start")  # sums of lists are quadratic
            return self.limits.charge(checked(*args, **kwargs))

        return guarded

    def _replace(self, text: str, old: str, new: str, count: int = -1) -> str:
        num_found = len(text) + 1 if old == "" else text.count(old)
        if count >= 0:
            num_found = min(num_found, count)
        check_size(len(text) + num_found * max(0, len(new) - len(old)))
        return text.replace(old, new, count)

    @staticmethod
    @pass_environment
    def _join(
        environment: Sandbox, values: Iterable[Any], d: Any = "", attribute: str | None = None
    ) -> str:
        if attribute is not None:
            values = map(make_attrgetter(environment, attribute), values)
        return environment.concat(_between(str(d), map(str, values)))

    def _tojson(
        self,
        value: Any,
        ensure_ascii: bool = False,
        indent: int | str | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        """JSON without the escapes for HTML that Jinja's own filter writes."""
        encoder = json.JSONEncoder(
            ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
        )
        return self.concat(encoder.iterencode(value))

    def _namespace(self, *args: Any, **kwargs: Any) -> Namespace:
        limits = self.limits

        class Limited(Namespace):
            def __setitem__(self, name: str, value: Any) -> None:
                if name.startswith("_"):
                    raise SecurityError(f"a namespace cannot hold {name!r}")
                super().__setitem__(name, value)
                limits.charge(self)

        return Limited(*args, **kwargs)


def _between(separator: str, values: Iterable[str]) -> Iterator[str]:
    for index, value in enumerate(values):
        if index:
            yield separator
        yield value


def _with_value(replace: Callable[..., str]) -> _Function:
    """Jinja's filter takes any value, where the method has a string."""

    def replaced(value: Any, old: Any, new: Any, count: int | None = None) -> str:
        return replace(str(value), str(old), str(new), -1 if count is None else count)

    return replaced


def _with_checked_width(function: _Function, skip: int) -> _Function:
    def checked(*args: Any, **kwargs: Any) -> Any:
        for value in (*args[skip:], *kwargs.values()):
            check_width(value)
        return function(*args, **kwargs)

    return checked


def _dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    """`dict` without the methods of the class, which could change what the sandbox guards."""
    return dict(*args, **kwargs)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)
