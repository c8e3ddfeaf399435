"""What moves on the screen, on stderr, and tables; the only importer of rich.

rich is imported when something is to be shown on a terminal, since it takes as long to import as
all the rest. Where stderr is no terminal there are plain lines, and never an escape.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from olla.cli.bars import FRAME_S, FRAMES, PlainLines, Rows
from olla.cli.text import format_columns
from olla.requests import Progress

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

Show = Callable[[Progress], None]

# The terminal writes "^C" behind the last row. In a full row it would begin a new line, and the
# next frame would be drawn one line too low.
_ECHO_WIDTH = len("^C")
_ASK_EVERY_S = 0.3


@contextmanager
def progress_bars() -> Iterator[Show]:
    """A function that shows each report of a transfer."""
    if sys.stderr.isatty():
        yield from _live_bars()
        return
    plain = PlainLines()

    def show(progress: Progress) -> None:
        line = plain.next(progress)
        if line:
            click.echo(line, err=True)

    yield show


@contextmanager
def waiting(ask: Callable[[], str] | None = None) -> Iterator[Callable[[], None]]:
    """A spinner until the block ends, or until the function that is given is called.

    Args:
        ask: says what is being waited for; it may take its time, and is called in a thread.
    """
    if not sys.stderr.isatty():
        yield lambda: None
        return
    status = _Status(ask)

    def lines(width: int, _height: int) -> list[str]:
        return [f"{_frame()} {status.text}"[: width - _ECHO_WIDTH].rstrip()]

    with status, _live(lines, transient=True) as live:

        def stop() -> None:
            status.stop()
            live.stop()

        yield stop


class _Status:
    """The latest answer of a question that is asked again and again."""

    def __init__(self, ask: Callable[[], str] | None) -> None:
        self._ask = ask
        self._is_over = threading.Event()
        self.text = ""

    def __enter__(self) -> None:
        if self._ask is not None:
            # Not waited for at the end: an answer on its way may take seconds.
            threading.Thread(target=self._follow, args=(self._ask,), daemon=True).start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._is_over.set()

    def _follow(self, ask: Callable[[], str]) -> None:
        while not self._is_over.wait(_ASK_EVERY_S):
            self.text = ask()


def echo_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table in columns, plain, on a terminal or not."""
    for line in format_columns([header, *rows]):
        click.echo(line)


def show_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on stdout, which is a terminal."""
    from rich.console import Console  # noqa: PLC0415 - slow to import
    from rich.table import Table  # noqa: PLC0415

    table = Table(*header, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for row in rows:
        table.add_row(*row)
    Console(highlight=False).print(table)


def _live_bars() -> Iterator[Show]:
    rows = Rows()
    is_busy = True

    def lines(width: int, height: int) -> list[str]:
        every = rows.lines(width - _ECHO_WIDTH, time.monotonic(), is_busy=is_busy)
        return every[-(height - 1) :] if is_busy else every  # what runs is at the bottom

    with _live(lines):
        try:
            yield lambda progress: rows.update(progress, time.monotonic())
        finally:
            is_busy = False


def _live(lines: Callable[[int, int], list[str]], *, transient: bool = False) -> Live:
    from rich.console import Console  # noqa: PLC0415 - slow to import
    from rich.live import Live  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    console = Console(stderr=True)

    def render() -> RenderableType:
        width, height = console.size
        return Text("\n".join(lines(width, height)), no_wrap=True, overflow="crop")

    return Live(
        get_renderable=render,
        console=console,
        refresh_per_second=1 / FRAME_S,
        transient=transient,
        redirect_stdout=False,
        redirect_stderr=False,
    )


def _frame() -> str:
    return FRAMES[int(time.monotonic() / FRAME_S) % len(FRAMES)]
