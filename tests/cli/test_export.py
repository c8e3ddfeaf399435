"""`olla export` against a real store, with the tiny model in it."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from olla.cli.export import export
from olla.registry.store import ModelStore
from olla.settings import Settings
from tests.server.conftest import add_model


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    add_model(ModelStore(tmp_path / "models"), "tiny")
    return Settings(home=tmp_path, models=tmp_path / "models")


def run(settings: Settings, *arguments: str) -> Result:
    return CliRunner().invoke(export, arguments, obj=settings)


def test_a_gguf_model_is_exported_as_it_is(settings: Settings, tmp_path: Path) -> None:
    result = run(settings, "tiny", str(tmp_path / "out.gguf"), "--format", "gguf")

    stored = next((tmp_path / "models" / "blobs").glob("sha256-*"))
    sizes = {path.stat().st_size for path in stored.parent.iterdir()}
    assert result.exit_code == 0, result.exception
    assert (tmp_path / "out.gguf").stat().st_size in sizes


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("tiny", "models", "--format", "hf"), "models exists already: name a place that does not"),
        (("tiny", "x", "--format", "zip"), "unknown format 'zip': it is one of archive, hf, gguf"),
        (("none", "x", "--format", "hf"), "model 'none:latest' not found"),
        (
            ("tiny", "x", "--format", "hf", "-q", "q8_0"),
            "to nf4 or int8; q8_0 is for GGUF",
        ),
        (("tiny", "x", "--merge"), "--merge and --quantize are for --format hf and gguf"),
    ],
)
def test_what_cannot_be_exported_leaves_nothing(
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    text: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())

    result = run(settings, *arguments)

    assert text in str(result.exception)
    assert sorted(tmp_path.iterdir()) == before
