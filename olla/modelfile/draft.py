"""DRAFT: a small model, as one GGUF file, that drafts tokens for a large one.

The two have to have the same vocabulary, since one verifies the other's token numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from olla.errors import BadInput
from olla.formats.gguf import read_gguf
from olla.formats.vocabularies import check_vocabularies
from olla.modelfile.base_weights import read_object
from olla.modelfile.uploads import Upload
from olla.modelfile.weights import Weights, import_gguf
from olla.registry.weights import GGUF_NAME

_TOKENIZER = "tokenizer.json"


def import_draft(uploads: tuple[Upload, ...], base: Mapping[str, Path]) -> Weights:
    """A draft model for the model whose files are `base`.

    Raises:
        BadInput: it is not one model in GGUF, is the base itself, or has another vocabulary.
        FormatError: a file of the base is broken.
    """
    try:
        draft = import_gguf(uploads)
    except BadInput as error:
        raise BadInput(f"DRAFT {', '.join(upload.name for upload in uploads)}: {error}") from error
    if len(uploads) != 1:
        raise BadInput("DRAFT takes one GGUF file with a model, and no projectors")
    if draft.files[GGUF_NAME] == base.get(GGUF_NAME):
        raise BadInput(
            f"DRAFT {uploads[0].name} has the weights of the model itself, so it would draft no "
            "faster: take a smaller model of the same family"
        )
    check_vocabularies(_vocabulary(base), _vocabulary(draft.files))
    return draft


def _vocabulary(files: Mapping[str, Path]) -> dict[int, str]:
    """Each token's text by its number; empty where no file says."""
    if GGUF_NAME in files:
        tokens = read_gguf(files[GGUF_NAME]).metadata.get("tokenizer.ggml.tokens")
        return dict(enumerate(map(str, tokens))) if isinstance(tokens, tuple) else {}
    if _TOKENIZER not in files:
        return {}
    document = read_object(files[_TOKENIZER], _TOKENIZER)
    model, added = document.get("model"), document.get("added_tokens")
    vocabulary = _tokens(model.get("vocab") if isinstance(model, dict) else None)
    for entry in added if isinstance(added, list) else ():
        if isinstance(entry, dict) and isinstance(entry.get("id"), int):
            vocabulary[entry["id"]] = str(entry.get("content"))
    return vocabulary


def _tokens(vocab: Any) -> dict[int, str]:
    """A tokenizer's vocabulary, which some kinds write as a list of tokens and scores."""
    if isinstance(vocab, dict):
        return {number: token for token, number in vocab.items() if isinstance(number, int)}
    if isinstance(vocab, list):
        return {number: str(entry[0]) for number, entry in enumerate(vocab) if entry}
    return {}
