"""Tiny models with a tokenizer that GGUF has a name for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, pre_tokenizers

from tests.tiny_model import files_of, save_tiny_model

MakeModel = Callable[..., Path]


@pytest.fixture
def make_model(tmp_path: Path) -> MakeModel:
    def make(family: str, **settings: Any) -> Path:
        folder = tmp_path / family
        folder.mkdir()
        save_tiny_model(folder, family, **settings)
        path = folder / "tokenizer.json"
        tokenizer = Tokenizer.from_file(str(path))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        tokenizer.save(str(path))
        return folder

    return make


def files_at(path: Path) -> dict[str, str]:
    return files_of(path) if path.is_dir() else {"model.gguf": str(path)}
