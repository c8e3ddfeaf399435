"""Modelfile text -> Modelfile, and what its commands mean (spec/modelfile.md sections 1 to 3).

Knows nothing about files, the store or JSON: paths and names stay the text they were. The
commands keep their order; whatever is said twice is settled by the properties.

The grammar is line-driven. A quoted value ends at the first closing quote that has nothing but
blanks between it and the end of its line, so quotes elsewhere in the value are data.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from olla.errors import ModelfileError
from olla.messages import Message
from olla.options import DEPRECATED_PARAMETERS, parse_parameter

Parameter = int | float | bool | str | list[str]


class CommandName(StrEnum):
    """The instructions. FROM is "model", as in Ollama's own command list."""

    MODEL = "model"
    LICENSE = "license"
    TEMPLATE = "template"
    SYSTEM = "system"
    ADAPTER = "adapter"
    DRAFT = "draft"
    RENDERER = "renderer"
    PARSER = "parser"
    PARAMETER = "parameter"
    MESSAGE = "message"
    REQUIRES = "requires"


@dataclass(frozen=True, slots=True)
class Command:
    """One instruction. `args` is `name value` for PARAMETER and `role: text` for MESSAGE."""

    name: CommandName
    args: str
    line: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Modelfile:
    """The commands of a file, in order; the properties say what they amount to."""

    commands: tuple[Command, ...]

    @property
    def bases(self) -> tuple[str, ...]:
        """Every FROM: paths of files, which add up, or names of models, of which the last holds."""
        return self._all(CommandName.MODEL)

    @property
    def adapters(self) -> tuple[str, ...]:
        """Every ADAPTER: a path, or a path and a scale; they add up."""
        return self._all(CommandName.ADAPTER)

    @property
    def drafts(self) -> tuple[str, ...]:
        return self._all(CommandName.DRAFT)

    @property
    def template(self) -> str:
        return self._last(CommandName.TEMPLATE)

    @property
    def system(self) -> str:
        return self._last(CommandName.SYSTEM)

    @property
    def renderer(self) -> str:
        return self._last(CommandName.RENDERER)

    @property
    def parser(self) -> str:
        return self._last(CommandName.PARSER)

    @property
    def licenses(self) -> tuple[str, ...]:
        return self._all(CommandName.LICENSE)

    @property
    def requires(self) -> str:
        """The least version, without a leading "v"; raises ModelfileError for any other text."""
        text = self._last(CommandName.REQUIRES)
        return parse_version(text) if text else ""

    @property
    def messages(self) -> tuple[Message, ...]:
        pairs = (args.partition(": ") for args in self._all(CommandName.MESSAGE))
        return tuple(Message(role=role, content=text) for role, _, text in pairs)

    @property
    def parameters(self) -> Mapping[str, Parameter]:
        """The parameters by name, typed; deprecated ones are left out.

        Raises:
            InvalidOption: an unknown name or a value of the wrong type.
        """
        values: dict[str, Parameter] = {}
        stop: list[str] = []
        for name, text in self._parameters():
            if name == "stop":
                values[name] = stop
                stop.append(text)
            elif name not in DEPRECATED_PARAMETERS:
                values[name] = parse_parameter(name, text)
        return values

    @property
    def warnings(self) -> tuple[str, ...]:
        return tuple(
            f"warning: parameter {name} is deprecated"
            for name, _ in self._parameters()
            if name in DEPRECATED_PARAMETERS
        )

    def _parameters(self) -> Iterator[tuple[str, str]]:
        for args in self._all(CommandName.PARAMETER):
            name, _, text = args.partition(" ")
            yield name, text

    def _all(self, name: CommandName) -> tuple[str, ...]:
        return tuple(command.args for command in self.commands if command.name is name)

    def _last(self, name: CommandName) -> str:
        return next(iter(reversed(self._all(name))), "")


def parse_modelfile(text: str | bytes) -> Modelfile:
    """Read a Modelfile: UTF-8, or UTF-16 with a byte order mark.

    Raises:
        ModelfileError: text that is no Modelfile; with the line where there is one to name.
    """
    commands = tuple(_commands(_decode(text)))
    if not any(command.name is CommandName.MODEL for command in commands):
        raise ModelfileError("no FROM line")
    return Modelfile(commands)


def parse_version(text: str) -> str:
    """Read the version that REQUIRES names; minor and patch may be left out.

    Raises:
        ModelfileError: not a semantic version.
    """
    match = _VERSION.fullmatch(text)
    if match is None:
        raise ModelfileError("requires must be a valid semver (e.g. 0.14.0)")
    return match[1]


_KEYWORDS = {"from": CommandName.MODEL} | {
    name.value: name for name in CommandName if name is not CommandName.MODEL
}
_ROLES = frozenset({"system", "user", "assistant"})
_BAD_COMMAND = (
    'command must be one of "from", "license", "template", "system", "adapter", "draft", '
    '"renderer", "parser", "parameter", "message", or "requires"'
)
_BAD_ROLE = 'message role must be one of "system", "user", or "assistant"'
_UNEXPECTED_EOF = "unexpected EOF"

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)

_BLANKS = " \t"
_IDLE = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_WORD = re.compile(r"[^A-Za-z]?[A-Za-z]*")
_PARAMETER_NAME = re.compile(r"[ \t]*([A-Za-z0-9_]*)")
_ROLE = re.compile(r"[ \t]*([A-Za-z]*)")
_BARE = re.compile(r"[^\r\n]*")
# A closing quote counts where only blanks follow it in its line.
_TRIPLE_QUOTED = re.compile(r'"""(.*?)"""[ \t]*(?=[\r\n]|\Z)', re.DOTALL)
_QUOTED = re.compile(r'"(.*?)"[ \t]*(?=[\r\n]|\Z)', re.DOTALL)
_SCALED_PATH = re.compile(
    r'[ \t]*(?P<quote>"{3}|")(?P<path>[^"\r\n]+)(?P=quote)'
    r'[ \t]+(?P<scale>[^\s"]+)[ \t]*(?=[\r\n]|\Z)'
)

_NUMBER = r"(?:0|[1-9]\d*)"
_LABELS = r"[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*"
_VERSION = re.compile(
    rf"v?({_NUMBER}(?:\.{_NUMBER}(?:\.{_NUMBER}(?:-{_LABELS})?(?:\+{_LABELS})?)?)?)", re.ASCII
)


def _decode(text: str | bytes) -> str:
    if isinstance(text, str):
        return text.removeprefix("\ufeff")
    bom, encoding = next((pair for pair in _BOMS if text.startswith(pair[0])), (b"", "utf-8"))
    try:
        return text[len(bom) :].decode(encoding)
    except UnicodeDecodeError as error:
        raise ModelfileError("the Modelfile is neither UTF-8 nor UTF-16 text") from error


def _commands(text: str) -> Iterator[Command]:
    position = _end(_IDLE, text, 0)
    while position < len(text):
        line = _line(text, position)
        name, position = _keyword(text, position)
        prefix, position = _prefix(name, text, position)
        value, position = _scaled_path(name, text, position) or _value(text, position)
        yield Command(name, prefix + value, line)
        position = _end(_IDLE, text, position)


def _keyword(text: str, start: int) -> tuple[CommandName, int]:
    end = _end(_WORD, text, start)
    if end == len(text):
        raise ModelfileError(_UNEXPECTED_EOF)
    name = _KEYWORDS.get(text[start:end].lower())
    if name is None or text[end] not in _BLANKS:
        raise ModelfileError(f"(line {_line(text, end)}): {_BAD_COMMAND}")
    return name, end + 1


def _prefix(name: CommandName, text: str, start: int) -> tuple[str, int]:
    """What stands before the value: a parameter's name, a message's role, else nothing."""
    if name is CommandName.PARAMETER:
        parameter, end = _label(_PARAMETER_NAME, text, start)
        return f"{parameter} ", end
    if name is CommandName.MESSAGE:
        role, end = _label(_ROLE, text, start)
        if role not in _ROLES:
            raise ModelfileError(f"(line {_line(text, end)}): {_BAD_ROLE}")
        return f"{role}: ", end
    return "", start


def _label(pattern: re.Pattern[str], text: str, start: int) -> tuple[str, int]:
    match = pattern.match(text, start)
    assert match is not None
    end = match.end()
    if end == len(text):
        raise ModelfileError(_UNEXPECTED_EOF)
    if text[end] not in _BLANKS:
        raise ModelfileError(f"{_UNEXPECTED_EOF}: {match[1]}")
    return match[1], end


def _scaled_path(name: CommandName, text: str, start: int) -> tuple[str, int] | None:
    """What ADAPTER has alone: a quoted path with a scale behind it; None for anything else."""
    match = _SCALED_PATH.match(text, start) if name is CommandName.ADAPTER else None
    return (f"{match['path']} {match['scale']}", match.end()) if match else None


def _value(text: str, start: int) -> tuple[str, int]:
    while start < len(text) and text[start] in _BLANKS:
        start += 1
    if not text.startswith('"', start):
        end = _end(_BARE, text, start)
        return text[start:end].rstrip(_BLANKS), end
    pattern = _TRIPLE_QUOTED if text.startswith('"""', start) else _QUOTED
    match = pattern.match(text, start)
    if match is None:
        raise ModelfileError(_UNEXPECTED_EOF)
    return match[1], match.end()


def _end(pattern: re.Pattern[str], text: str, start: int) -> int:
    match = pattern.match(text, start)
    assert match is not None
    return match.end()


def _line(text: str, position: int) -> int:
    """The 1-based line, counted as Ollama does: CR and LF each, and the one at `position`."""
    return 1 + sum(text.count(newline, 0, position + 1) for newline in "\r\n")
