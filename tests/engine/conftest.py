"""The real model and a tiny random one, loaded once into olla's engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from olla.engine.loading import LoadedModel, load_model
from tests.tiny_model import save_tiny_model


@pytest.fixture(scope="session")
def smollm2(smollm2_gguf: Path) -> LoadedModel:
    return load_model(
        {"model.gguf": str(smollm2_gguf)}, "float32", "cpu", 0, lambda done, total: None
    )


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    files = save_tiny_model(tmp_path_factory.mktemp("tiny"))
    return load_model(files, "float32", "cpu", 0, lambda done, total: None)
