"""A model's tokenizer as GGUF metadata; the other way round is weights/gguf_tokenizer.py.

Byte-level BPE and SentencePiece's BPE have a form in GGUF. How text is split before merging has
only a name there, which is found from the tokenizer's own pattern; what was made is read back
and has to cut some texts as the original does.
"""

from __future__ import annotations

import json
import re
from typing import Any

from tokenizers import Tokenizer

from olla.engine.weights.checkpoint import SpecialTokens
from olla.engine.weights.gguf_tokenizer import tokenizer_from_metadata
from olla.errors import FormatError

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6
_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")
_SAMPLES = (
    "Hello, world! It's 12345 o'clock.",
    "def f(x):\n    return x**2  # fine\n\n",
    "Größe, naïve, 東京タワー, привет 🙂 — 3.14",
    "  leading and   double spaces\ttab",
)


def vocabulary_metadata(
    tokenizer: Tokenizer, special: SpecialTokens, vocab_size: int
) -> dict[str, Any]:
    """The metadata of a tokenizer, under `tokenizer.ggml.` names.

    Raises:
        FormatError: a kind of tokenizer that GGUF, or olla, has no form for.
    """
    document = json.loads(tokenizer.to_str())
    model = document["model"]
    if model["type"] != "BPE":
        raise FormatError(f"tokenizers of type {model['type']} cannot be written to GGUF")
    is_sentencepiece = bool(model.get("byte_fallback"))
    tokens = _tokens(tokenizer, vocab_size)
    found: dict[str, Any] = {
        "model": "llama" if is_sentencepiece else "gpt2",
        "pre": "default" if is_sentencepiece else _pre(document),
        "tokens": tokens,
        "token_type": _types(document, tokens),
        "add_bos_token": special.bos_id is not None,
    }
    merges = [merge if isinstance(merge, list) else merge.split(" ") for merge in model["merges"]]
    if is_sentencepiece:
        found["scores"] = _scores(tokens, merges)
        found["add_space_prefix"] = "Prepend" in json.dumps(document["normalizer"])
    else:
        found["merges"] = [" ".join(merge) for merge in merges]
    found |= _special_ids(tokenizer, special)
    metadata = {f"tokenizer.ggml.{name}": value for name, value in found.items()}
    _check(tokenizer, metadata)
    return metadata


def _tokens(tokenizer: Tokenizer, vocab_size: int) -> list[str]:
    """By number; where the embedding has more rows than there are tokens, names for padding."""
    names = {index: token for token, index in tokenizer.get_vocab(with_added_tokens=True).items()}
    size = max(vocab_size, max(names) + 1)
    return [names.get(index, f"[PAD{index}]") for index in range(size)]


def _types(document: dict[str, Any], tokens: list[str]) -> list[int]:
    known = document["model"]["vocab"]
    unknown = document["model"].get("unk_token")
    types = [_NORMAL if token in known else _UNUSED for token in tokens]
    for index, token in enumerate(tokens):
        if _BYTE_TOKEN.fullmatch(token) and document["model"].get("byte_fallback"):
            types[index] = _BYTE
    for added in document["added_tokens"]:
        types[added["id"]] = _CONTROL if added["special"] else _USER_DEFINED
        if added["content"] == unknown:
            types[added["id"]] = _UNKNOWN
    return types


def _scores(tokens: list[str], merges: list[list[str]]) -> list[float]:
    """The sooner a token is merged, the better its score."""
    ranks = {left + right: rank for rank, (left, right) in reversed(list(enumerate(merges)))}
    return [-float(ranks.get(token, len(merges))) for token in tokens]


def _pre(document: dict[str, Any]) -> str:
    """llama.cpp's name for how text is split.

    Raises:
        FormatError: it has none that olla knows.
    """
    steps = document["pre_tokenizer"] or {}
    steps = steps.get("pretokenizers", [steps])
    patterns = [json.dumps(step["pattern"]) for step in steps if step["type"] == "Split"]
    has_digits = any(step["type"] == "Digits" and step["individual_digits"] for step in steps)
    if not patterns:
        return "smollm" if has_digits else "gpt-2"
    if "{1,3}" in patterns[0]:
        return "llama-bpe" if document["model"].get("ignore_merges") else "dbrx"
    return "qwen2"


def _special_ids(tokenizer: Tokenizer, special: SpecialTokens) -> dict[str, int]:
    ids = {
        "bos_token_id": tokenizer.token_to_id(special.bos_token) if special.bos_token else None,
        "eos_token_id": tokenizer.token_to_id(special.eos_token) if special.eos_token else None,
    }
    others = sorted(special.end_ids - set(ids.values()))
    if ids["eos_token_id"] is None and others:
        ids["eos_token_id"] = others.pop(0)
    if others:
        ids["eot_token_id"] = others[0]
    return {name: index for name, index in ids.items() if index is not None}


def _check(tokenizer: Tokenizer, metadata: dict[str, Any]) -> None:
    lists = {k: tuple(v) if isinstance(v, list) else v for k, v in metadata.items()}
    made = tokenizer_from_metadata(lists)
    for text in _SAMPLES:
        wanted = tokenizer.encode(text, add_special_tokens=False).ids
        if made.encode(text, add_special_tokens=False).ids != wanted:
            raise FormatError(
                "the model's tokenizer splits text in a way that GGUF has no name for; export it "
                "with --format hf"
            )
