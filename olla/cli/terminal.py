"""What moves on the screen, on stderr, and tables; the only importer of rich.

rich is imported when something is to be shown on a terminal, since it takes as long to import as
all the rest. Where stderr is no terminal there are plain lines, and never an escape.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from olla.cli.bars import FRAME_S, FRAMES, PlainLines, Rows
from olla.requests import Progress

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

Show = Callable[[Progress], None]

# The terminal writes "^C" behind the last row. In a full row it would begin a new line, and the
# next frame would be drawn one line too low.
_ECHO_WIDTH = len("^C")


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
def waiting() -> Iterator[Callable[[], None]]:
    """A spinner until the block ends, or until the function that is given is called."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    with _live(lambda _width, _height: [_frame()], transient=True) as live:
        yield live.stop


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
