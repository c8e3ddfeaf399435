"""The real model, once in olla's engine and once in transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import transformers

from olla.engine.loading import LoadedModel, load_model


class Reference(NamedTuple):
    """transformers' own reading of the same GGUF file."""

    model: Any
    tokenizer: Any


@pytest.fixture(scope="session")
def smollm2(smollm2_gguf: Path) -> LoadedModel:
    return load_model(
        {"model.gguf": str(smollm2_gguf)}, "float32", "cpu", 0, lambda done, total: None
    )


@pytest.fixture(scope="session")
def reference(smollm2_gguf: Path) -> Reference:
    folder, file = str(smollm2_gguf.parent), smollm2_gguf.name
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=file, dtype=torch.float32
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=file)
    return Reference(model.eval(), tokenizer)
