"""Showing one reply as it arrives: thinking, text, calls of tools, then the timings.

stdout gets escapes only when it is a terminal. Knows nothing about requests.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

import click

from olla.cli.markdown import Markdown
from olla.cli.terminal import waiting
from olla.cli.wrap import WordWrap
from olla.durations import NANOSECONDS, format_duration
from olla.errors import ClientError
from olla.requests import ChatChunk, Timings

_GREY, _GREY_BOLD, _PLAIN = "\x1b[90m", "\x1b[1;90m", "\x1b[0m"


@dataclass(frozen=True, slots=True)
class View:
    """How replies are shown; the prompt's `/set` changes it."""

    word_wrap: bool = True
    thinking: bool = True
    verbose: bool = False
    colour: bool = True


@dataclass(frozen=True, slots=True)
class ShownReply:
    content: str
    timings: Timings


def show_reply(
    chunks: Generator[ChatChunk, None, None], view: View, ask: Callable[[], str] | None = None
) -> ShownReply:
    """Write a reply to stdout. An interrupt closes the connection.

    The spinner turns until there is something to write; beside it stands what `ask` says.
    """
    writer = _ReplyWriter(view, is_terminal=sys.stdout.isatty())
    timings = Timings()
    with closing(chunks), waiting(ask) as stop_spinner, _own_line_for_errors(writer):
        for chunk in chunks:
            text = writer.push(chunk)
            if text:
                stop_spinner()
                _write(text)
            timings = chunk.timings
    _write(writer.finish() + "\n\n")
    if view.verbose:
        click.echo("\n".join(timing_lines(timings)), err=True)
    return ShownReply(writer.content, timings)


@contextmanager
def _own_line_for_errors(writer: _ReplyWriter) -> Iterator[None]:
    """On a terminal, an error that breaks off a line of the reply is told below it."""
    try:
        yield
    except ClientError:
        if writer.is_within_line:
            _write("\n")
        raise


def timing_lines(timings: Timings) -> list[str]:
    """What `--verbose` adds; what is zero is left out."""
    rows = (
        ("total duration", timings.total_ns and format_duration(timings.total_ns)),
        ("load duration", timings.load_ns and format_duration(timings.load_ns)),
        ("prompt eval count", _tokens(timings.num_prompt_tokens)),
        ("prompt eval duration", timings.prompt_ns and format_duration(timings.prompt_ns)),
        ("prompt eval rate", _rate(timings.num_prompt_tokens, timings.prompt_ns)),
        ("eval count", _tokens(timings.num_tokens)),
        ("eval duration", timings.generation_ns and format_duration(timings.generation_ns)),
        ("eval rate", _rate(timings.num_tokens, timings.generation_ns)),
        ("draft acceptance", _acceptance(timings)),
    )
    return [f"{name + ':':<22}{value}" for name, value in rows if value]


class _ReplyWriter:
    """Chunks -> what to print. Thinking stands between two marks, in grey where there is colour."""

    def __init__(self, view: View, *, is_terminal: bool) -> None:
        self._wrap = WordWrap(_columns) if is_terminal and view.word_wrap else None
        self._is_terminal = is_terminal
        self._has_colour = is_terminal and view.colour
        self._markdown = Markdown() if self._has_colour else None
        self._shows_thinking = view.thinking
        self._is_thinking = False
        self.is_within_line = False
        self.content = ""

    def push(self, chunk: ChatChunk) -> str:
        text = ""
        if chunk.thinking and self._shows_thinking:
            text += self._open_thinking() + self._grey(self._wrapped(chunk.thinking))
        if chunk.content:
            self.content += chunk.content
            text += self._close_thinking() + self._wrapped(self._styled(chunk.content))
        for call in chunk.tool_calls:
            arguments = json.dumps(call.arguments, ensure_ascii=False)
            text += self._close_thinking() + (
                f"  Model called a non-existent function '{call.name}()' "
                f"with arguments: {arguments}\n"
            )
        if text and self._is_terminal:
            self.is_within_line = not text.endswith("\n")
        return text

    def finish(self) -> str:
        return self._close_thinking()

    def _open_thinking(self) -> str:
        if self._is_thinking:
            return ""
        self._is_thinking = True
        return self._grey("Thinking...", _GREY_BOLD) + "\n"

    def _close_thinking(self) -> str:
        if not self._is_thinking:
            return ""
        self._is_thinking = False
        self._wrapped("\n")
        return "\n" + self._grey("...done thinking.", _GREY_BOLD) + "\n\n"

    def _styled(self, text: str) -> str:
        return self._markdown.push(text) if self._markdown else text

    def _wrapped(self, text: str) -> str:
        return self._wrap.push(text) if self._wrap else text

    def _grey(self, text: str, colour: str = _GREY) -> str:
        return f"{colour}{text}{_PLAIN}" if self._has_colour else text


def _columns() -> int:
    return shutil.get_terminal_size().columns


def _tokens(count: int) -> str:
    return f"{count} token(s)" if count else ""


def _rate(count: int, duration_ns: int) -> str:
    return f"{count * NANOSECONDS / duration_ns:.2f} tokens/s" if count and duration_ns else ""


def _acceptance(timings: Timings) -> str:
    """How many of the tokens that were drafted came, in llama.cpp's words."""
    drafted, accepted = timings.num_drafted_tokens, timings.num_accepted_tokens
    if not drafted:
        return ""
    return f"{accepted / drafted:.5f} ({accepted} accepted / {drafted} generated)"


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
