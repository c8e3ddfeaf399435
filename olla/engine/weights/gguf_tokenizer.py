"""A `tokenizers` object built straight from a GGUF file's vocabulary.

Two kinds of vocabulary: "gpt2" (byte-level BPE with merges) and "llama" (SentencePiece BPE, whose
merges follow from the scores). How text is split before merging is named by `tokenizer.ggml.pre`;
the names and what they mean are llama.cpp's (src/llama-vocab.cpp).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from olla.errors import FormatError

_CONTROL, _USER_DEFINED = 3, 4
_SPACE = "\u2581"

# Splits words off numbers and punctuation; they differ in how many digits stay together.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{digits}"
    r"| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_GPT2_NAMES = {"default", "gpt-2", "phi-2", "olmo", "mpt"}
_SINGLE_DIGIT_NAMES = {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone"}
_WHOLE_WORD_NAMES = {"llama3", "llama-v3", "llama-bpe", "falcon3", "pixtral", "lfm2"}
_THREE_DIGIT_NAMES = _WHOLE_WORD_NAMES | {"dbrx", "smaug-bpe"}
_QWEN_NAMES = {"qwen2", "deepseek-r1-qwen", "stablelm2"}


def tokenizer_from_metadata(metadata: Mapping[str, Any]) -> Tokenizer:
    """Build the tokenizer of a GGUF file.

    Raises:
        FormatError: a kind of vocabulary or a pre-tokenizer that olla does not know, or lists
            that do not belong together.
    """
    tokens = _list(metadata, "tokens", str)
    if not tokens:
        raise FormatError("the GGUF file has no vocabulary")
    kind = metadata.get("tokenizer.ggml.model")
    if kind == "gpt2":
        tokenizer = _byte_level(metadata, tokens)
    elif kind == "llama":
        tokenizer = _sentencepiece(metadata, tokens)
    else:
        raise FormatError(f'unsupported tokenizer "{kind}"; olla reads gpt2 and llama from GGUF')
    _add_special_tokens(tokenizer, metadata, tokens)
    return tokenizer


def frame_texts(tokenizer: Tokenizer, bos: int | None, eos: int | None) -> None:
    """Have the tokenizer put these around a text when it is asked for special tokens."""
    found = {"bos": bos, "eos": eos}
    names = {name: tokenizer.id_to_token(i) for name, i in found.items() if i is not None}
    special = [
        {"id": name, "ids": [found[name]], "tokens": [text]} for name, text in names.items() if text
    ]
    before, after = (["bos"] if "bos" in names else []), (["eos"] if "eos" in names else [])
    if special:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[*before, "$A", *after], special_tokens=special
        )


def _list(metadata: Mapping[str, Any], name: str, kind: type) -> tuple[Any, ...]:
    """A list of the vocabulary; empty where the file has none."""
    values = metadata.get(f"tokenizer.ggml.{name}")
    if values is None:
        return ()
    if not isinstance(values, tuple) or not all(isinstance(value, kind) for value in values):
        raise FormatError(f"the GGUF file's {name} are not a list of {kind.__name__}")
    return values


def _byte_level(metadata: Mapping[str, Any], tokens: tuple[str, ...]) -> Tokenizer:
    pre = metadata.get("tokenizer.ggml.pre", "default")
    merges = [_merge(line) for line in _list(metadata, "merges", str)]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    # tokenizers would panic, which no handler of errors sees.
    if any(left + right not in vocabulary for left, right in merges):
        raise FormatError("the GGUF file's merges make tokens that its vocabulary lacks")
    # Llama 3 takes a word that is a token as it stands, whatever the merges make of it.
    ignore_merges = pre in _WHOLE_WORD_NAMES
    try:
        model = models.BPE(vocab=vocabulary, merges=merges, ignore_merges=ignore_merges)
    except Exception as error:
        raise FormatError(f"the GGUF file's vocabulary cannot be used: {error}") from error
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = _pre_tokenizer(pre)
    tokenizer.decoder = decoders.ByteLevel()
    if pre in _QWEN_NAMES:
        tokenizer.normalizer = normalizers.NFC()
    return tokenizer


def _merge(line: str) -> tuple[str, str]:
    left, separator, right = line.partition(" ")
    if not separator:
        raise FormatError(f"the GGUF file's merges hold {line!r}, which is no pair")
    return left, right


def _pre_tokenizer(pre: object) -> pre_tokenizers.PreTokenizer:
    with_regex = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if pre in _GPT2_NAMES:
        return with_regex
    if pre in _SINGLE_DIGIT_NAMES:
        digits = pre_tokenizers.Digits(individual_digits=True)
        return pre_tokenizers.Sequence([digits, with_regex])
    if pre in _THREE_DIGIT_NAMES or pre in _QWEN_NAMES:
        pattern = _SPLIT.format(digits="{1,3}" if pre in _THREE_DIGIT_NAMES else "")
        split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
        bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        return pre_tokenizers.Sequence([split, bytes_only])
    raise FormatError(f'unsupported pre-tokenizer "{pre}" in the GGUF file')


def _sentencepiece(metadata: Mapping[str, Any], tokens: tuple[str, ...]) -> Tokenizer:
    scores = _list(metadata, "scores", float)
    if len(scores) != len(tokens):
        raise FormatError("the GGUF file's scores do not match its vocabulary")
    vocabulary = {token: index for index, token in enumerate(tokens)}
    unknown = metadata.get("tokenizer.ggml.unknown_token_id", 0)
    model = models.BPE(
        vocab=vocabulary,
        merges=_merges_from_scores(vocabulary, scores),
        unk_token=tokens[unknown] if unknown in range(len(tokens)) else None,
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer = Tokenizer(model)
    adds_space = bool(metadata.get("tokenizer.ggml.add_space_prefix", True))
    replace = normalizers.Replace(" ", _SPACE)
    steps = [normalizers.Prepend(_SPACE), replace] if adds_space else [replace]
    tokenizer.normalizer = normalizers.Sequence(steps)
    strip = [decoders.Strip(" ", 1, 0)] if adds_space else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return tokenizer


def _merges_from_scores(
    vocabulary: dict[str, int], scores: tuple[float, ...]
) -> list[tuple[str, str]]:
    """The pairs that SentencePiece would join, best score first."""
    ranked = []
    for token, index in vocabulary.items():
        for cut in range(1, len(token)):
            left, right = vocabulary.get(token[:cut]), vocabulary.get(token[cut:])
            if left is not None and right is not None:
                ranked.append((-scores[index], index, left, right, token, cut))
    ranked.sort(key=lambda pair: pair[:4])
    return [(token[:cut], token[cut:]) for *_, token, cut in ranked]


def _add_special_tokens(
    tokenizer: Tokenizer, metadata: Mapping[str, Any], tokens: tuple[str, ...]
) -> None:
    types = _list(metadata, "token_type", int)
    if types and len(types) != len(tokens):
        raise FormatError("the GGUF file's token_type does not match its vocabulary")
    special, plain = [], []
    for token, kind in zip(tokens, types, strict=False):
        if kind == _CONTROL:
            special.append(AddedToken(token, special=True, normalized=False))
        elif kind == _USER_DEFINED:
            plain.append(AddedToken(token, special=False, normalized=False))
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens(plain)
