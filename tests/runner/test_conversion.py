"""A conversion in a process of its own: what it writes, reports and refuses."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import psutil
import pytest

from olla.errors import BadInput
from olla.runner.conversion import Conversion, convert
from tests.engine.conversion.conftest import MakeModel, files_at, make_model

__all__ = ["make_model"]


def test_it_writes_the_file_and_reports_all_of_it(make_model: MakeModel, tmp_path: Path) -> None:
    output = tmp_path / "out.gguf"
    job = Conversion(files_at(make_model("llama")), str(output), quantization="q8_0")

    last = list(convert(job, "quantizing"))[-1]

    assert output.read_bytes()[:4] == b"GGUF"
    assert (last.status, last.completed_bytes) == ("quantizing", last.total_bytes)
    assert last.total_bytes > 0


def test_what_it_refuses_is_told(make_model: MakeModel, tmp_path: Path) -> None:
    job = Conversion(files_at(make_model("llama")), str(tmp_path / "x"), quantization="q9")

    with pytest.raises(BadInput, match="unsupported quantization type q9"):
        list(convert(job, ""))


def test_closing_it_ends_the_process(make_model: MakeModel, tmp_path: Path) -> None:
    job = Conversion(files_at(make_model("llama")), str(tmp_path / "x"))

    before = set(psutil.Process().children())
    with closing(convert(job, "")) as steps:
        next(steps)

    assert set(psutil.Process().children()) <= before
