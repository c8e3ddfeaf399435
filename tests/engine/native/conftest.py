"""The libraries that were built here; their tests need a C++ compiler at installation."""

from __future__ import annotations

from pathlib import Path

import pytest

from olla.engine.native.library import Core, find_libraries

LIBRARIES = [str(path) for path in find_libraries()]


@pytest.fixture(params=LIBRARIES or ["none"], ids=lambda path: Path(path).stem)
def core(request: pytest.FixtureRequest) -> Core:
    if request.param == "none":
        pytest.skip("no C++ compiler was there when olla was installed")
    return Core(Path(request.param), num_threads=2)
