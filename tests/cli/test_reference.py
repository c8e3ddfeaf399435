"""docs/cli.md is what the commands' own help says today."""

from __future__ import annotations

from pathlib import Path

from olla.cli import COMMANDS, cli
from olla.cli.reference import reference_text

REFERENCE = Path(__file__).parents[2] / "docs" / "cli.md"


def test_the_reference_is_not_stale() -> None:
    assert REFERENCE.read_text(encoding="utf-8") == reference_text(cli), (
        "run: python -m olla.cli.reference docs/cli.md"
    )


def test_the_reference_has_every_command() -> None:
    text = reference_text(cli)

    assert all(f"\n## olla {name}\n" in text for name in COMMANDS)
