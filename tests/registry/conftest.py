"""Fixtures for the store's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from olla.registry.store import ModelStore


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def store(root: Path) -> ModelStore:
    return ModelStore(root)
