"""The libraries that were built here; their tests need a C++ compiler at installation."""

from __future__ import annotations

from pathlib import Path

import pytest

from olla.engine.native.library import FOLDER, Core, find_library

LIBRARIES = sorted(FOLDER.glob("core_*.so"))


def runs_here(path: Path) -> bool:
    """The portable library runs everywhere, the fastest found one here by definition."""
    return path.stem == "core_portable" or path == find_library()


@pytest.fixture(
    params=[path for path in LIBRARIES if runs_here(path)] or [None],
    ids=lambda path: "none" if path is None else path.stem,
)
def core(request: pytest.FixtureRequest) -> Core:
    if request.param is None:
        pytest.skip("no C++ compiler was there when olla was installed")
    return Core(request.param, num_threads=2)
