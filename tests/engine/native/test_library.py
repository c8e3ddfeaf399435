"""The core is built where there is a compiler, and done without where it cannot be had."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import hatch_build
from olla.engine.loading import load_model
from olla.engine.native.library import FOLDER, find_libraries, find_library
from tests.tiny_model import save_tiny_model

LIBRARIES = [path.name for path in find_libraries()]


@pytest.mark.skipif(hatch_build.find_compiler() is None, reason="no C++ compiler")
def test_every_variant_was_built() -> None:
    """So that no test of the core is skipped unnoticed."""
    assert set(hatch_build.VARIANTS) <= {path.name for path in FOLDER.glob("core_*.so")}


@pytest.mark.parametrize("compiler", ["no-such-compiler", "false -O0"])
def test_a_compiler_that_does_not_compile_builds_nothing(tmp_path: Path, compiler: str) -> None:
    (tmp_path / "core.cpp").touch()

    assert not hatch_build.build(compiler, tmp_path, "core_portable.so")
    assert not list(tmp_path.glob("*.so"))


def test_a_source_distribution_has_no_libraries_of_the_machine_that_made_it(tmp_path: Path) -> None:
    root = Path(hatch_build.__file__).parent
    command = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(tmp_path)]
    subprocess.run(command, cwd=root, check=True, capture_output=True)

    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as files:
        names = [Path(name).name for name in files.getnames()]
    assert {"core.cpp", "layout.h", "hatch_build.py"} <= set(names)
    assert not [name for name in names if name.endswith(".so")]


@pytest.mark.parametrize("place", [0, -1])
def test_a_library_that_does_not_load_is_told_of_and_done_without(
    tmp_path: Path, place: int
) -> None:
    """The portable one, the last, is the one that says what the processor has."""
    if len(LIBRARIES) < 2:
        pytest.skip("the core was not built for this processor")
    for name in LIBRARIES:
        shutil.copy(FOLDER / name, tmp_path)
    (tmp_path / LIBRARIES[place]).write_bytes(b"\x7fELF of another machine")
    told: list[str] = []

    found = find_library(tmp_path, told.append)

    assert found == (tmp_path / LIBRARIES[1] if place == 0 else None)
    (line,) = told
    assert LIBRARIES[place] in line


@pytest.mark.parametrize("is_built", [True, False])
def test_the_log_says_what_computes(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    *,
    is_built: bool,
) -> None:
    if not is_built:
        monkeypatch.setattr("olla.engine.loading.find_library", lambda: None)
    used = Path(LIBRARIES[0]).stem if is_built and LIBRARIES else "none (torch)"

    with caplog.at_level(logging.INFO):
        load_model(save_tiny_model(tmp_path), "auto", "cpu", 1, lambda *_: None, quantize="int8")

    assert f"core variant={used} threads=1" in caplog.messages
