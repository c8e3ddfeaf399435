"""Samples of one run -> tables of docs/benchmarks.md. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from olla.cli.figures import figure_of, format_figure

BEGIN = "<!-- make bench writes from here -->\n"
END = "<!-- to here -->\n"


@dataclass(frozen=True, slots=True)
class Aim:
    """What olla's figure divided by the other's is meant to be."""

    bound: float
    is_at_most: bool = False

    def verdict(self, ratio: float) -> str:
        met = ratio <= self.bound if self.is_at_most else ratio >= self.bound
        sign = "<=" if self.is_at_most else ">="
        return f"{sign} {self.bound:g}: {'met' if met else '**missed**'}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """The same work in the same rounds: sample n of both stands for round n."""

    model: str
    work: str
    unit: str
    peer: str
    ours: tuple[float, ...]
    theirs: tuple[float, ...]
    aim: Aim | None = None

    @property
    def ratios(self) -> tuple[float, ...]:
        return tuple(
            mine / other for mine, other in zip(self.ours, self.theirs, strict=True) if other
        )


@dataclass(frozen=True, slots=True)
class Measure:
    """A figure of olla's alone."""

    model: str
    what: str
    unit: str
    samples: tuple[float, ...]
    aim: Aim | None = None


def _titled(title: str, unit: str) -> str:
    return f"{title}, {unit}" if unit else title


def comparison_table(rows: Sequence[Comparison]) -> str:
    lines = [
        "| model | work | olla | beside | theirs | olla / theirs | aim |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        ratio = figure_of(row.ratios or (0.0,))
        cells = (
            row.model,
            _titled(row.work, row.unit),
            format_figure(figure_of(row.ours)),
            row.peer,
            format_figure(figure_of(row.theirs)),
            format_figure(ratio, 2),
            row.aim.verdict(ratio.median) if row.aim else "",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def measure_table(rows: Sequence[Measure]) -> str:
    lines = ["| model | what | median | aim |", "| --- | --- | --- | --- |"]
    for row in rows:
        figure = figure_of(row.samples)
        verdict = row.aim.verdict(figure.median) if row.aim else ""
        cells = (row.model, _titled(row.what, row.unit), format_figure(figure), verdict)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def replace_figures(page: str, figures: str) -> str:
    """The page with `figures` between its two marks.

    Raises:
        ValueError: it does not have both.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError("docs/benchmarks.md lacks the marks between which the figures stand")
    return f"{before}{BEGIN}\n{figures}\n{END}{after}"
