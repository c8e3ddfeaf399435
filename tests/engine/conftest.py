"""The real model, loaded once into olla's engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from olla.engine.loading import LoadedModel, load_model


@pytest.fixture(scope="session")
def smollm2(smollm2_gguf: Path) -> LoadedModel:
    return load_model(
        {"model.gguf": str(smollm2_gguf)}, "float32", "cpu", 0, lambda done, total: None
    )
