"""Tables of the bench: ratios round by round, aims, and where they go."""

from __future__ import annotations

import pytest

from tests.bench.__main__ import AIMS, ENGINE_ALONE, words_of
from tests.bench.models import GGUF_FILES
from tests.bench.report import (
    BEGIN,
    END,
    Aim,
    Comparison,
    Measure,
    comparison_table,
    measure_table,
    replace_figures,
)
from tests.bench.work import WORKS


def compared(ours: tuple[float, ...], theirs: tuple[float, ...], aim: Aim | None) -> str:
    row = Comparison("m", "decode", "tok/s", "llama.cpp", ours, theirs, aim)
    return comparison_table([row]).splitlines()[-1]


def test_a_ratio_is_that_of_the_same_round() -> None:
    """A slow minute of the machine meets both: the ratio stays."""
    line = compared((100.0, 50.0, 100.0), (50.0, 25.0, 50.0), None)

    assert "| 2.00 (2.00 to 2.00) |" in line


@pytest.mark.parametrize(
    ("aim", "verdict"),
    [
        (Aim(1.5), ">= 1.5: met"),
        (Aim(2.5), ">= 2.5: **missed**"),
        (Aim(2.0, is_at_most=True), "<= 2: met"),
        (Aim(0.1, is_at_most=True), "<= 0.1: **missed**"),
    ],
)
def test_an_aim_is_met_or_missed_by_the_median(aim: Aim, verdict: str) -> None:
    assert compared((2.0, 2.0, 9.0), (1.0, 1.0, 1.0), aim).endswith(f"| {verdict} |")


def test_what_could_not_be_measured_is_a_dash() -> None:
    assert "| - | llama.cpp | - | - |" in compared((0.0,), (0.0,), None)


def test_a_figure_of_ours_alone_has_its_aim_too() -> None:
    row = Measure("-", "daemon ready", "s", (0.5, 0.7, 0.55), Aim(0.6, is_at_most=True))

    line = measure_table([row]).splitlines()[-1]

    assert line == "| - | daemon ready, s | 0.550 (0.500 to 0.700) | <= 0.6: met |"


def test_figures_replace_those_that_stood_there() -> None:
    page = f"# Title\n{BEGIN}old\n{END}after\n"

    assert replace_figures(page, "new") == f"# Title\n{BEGIN}\nnew\n{END}after\n"


def test_a_page_without_the_marks_is_left_alone() -> None:
    with pytest.raises(ValueError, match="marks"):
        replace_figures("# Title\n", "new")


def test_every_aim_is_for_something_that_is_measured() -> None:
    works = {work.key for work in WORKS}
    known = {"llama.cpp", "transformers serve", "the engine alone"}

    for work, model, peer in AIMS:
        assert work in works
        assert model in GGUF_FILES
        assert peer in known
        assert peer != "the engine alone" or model in ENGINE_ALONE


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("smollm2", ("smollm2-q4", "smollm2-q8")),
        ("llama1b-q8", ("llama1b-q8",)),
        ("llama1b-q8,smollm2-q4", ("smollm2-q4", "llama1b-q8")),
    ],
)
def test_the_beginning_of_a_name_stands_for_all_such_models(
    text: str, words: tuple[str, ...]
) -> None:
    assert words_of(tuple(GGUF_FILES))(text) == words


def test_a_part_that_is_also_a_beginning_stands_for_itself() -> None:
    assert words_of(("decode", "decode8"))("decode") == ("decode",)
