"""Where there is a compiler the core was built, so that no test of it is skipped unnoticed."""

from __future__ import annotations

import pytest

import hatch_build
from olla.engine.native.library import FOLDER


@pytest.mark.skipif(hatch_build.find_compiler() is None, reason="no C++ compiler")
def test_every_variant_was_built() -> None:
    assert set(hatch_build.VARIANTS) <= {path.name for path in FOLDER.glob("core_*.so")}
