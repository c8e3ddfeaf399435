"""Tokenizers built from GGUF metadata split text as the vocabularies' makers do."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, pre_tokenizers

from olla.engine.weights.gguf_tokenizer import tokenizer_from_metadata
from olla.errors import FormatError

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
WORDS = ["▁", "a", "b", "c", "ab", "bc", "abc", "▁a", "▁ab", "cc", "aa", "aab", "▁abc"]
SCORES = [-9.0, -1.0, -1.5, -2.0, -3.0, -2.5, -4.0, -3.5, -2.8, -6.0, -5.0, -4.5, -7.0]
SENTENCEPIECE: dict[str, Any] = {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": ("<unk>", "<s>", "</s>", *BYTES, *WORDS, "<|user|>"),
    "tokenizer.ggml.scores": (0.0, 0.0, 0.0, *[0.0] * 256, *SCORES, 0.0),
    "tokenizer.ggml.token_type": (2, 3, 3, *[6] * 256, *[1] * len(WORDS), 4),
    "tokenizer.ggml.unknown_token_id": 0,
}


def sentencepiece(text: str) -> list[str]:
    """SentencePiece's BPE by its definition: join the adjacent pair of the best score, leftmost
    first, until none is left; what is no token becomes bytes."""
    scores = dict(zip(WORDS, SCORES, strict=True))
    pieces = list("▁" + text.replace(" ", "▁"))
    while True:
        pairs = enumerate(itertools.pairwise(pieces))
        joined = [(scores.get(a + b, -1e9), -i) for i, (a, b) in pairs]
        best = max(joined, default=(-1e9, 0))
        if best[0] == -1e9:
            break
        at = -best[1]
        pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
    return [
        token
        for piece in pieces
        for token in ([piece] if piece in scores else [BYTES[b] for b in piece.encode()])
    ]


@given(text=st.text(alphabet="abc ", min_size=1, max_size=30))
def test_sentencepiece_joins_the_best_pairs(text: str) -> None:
    tokenizer = tokenizer_from_metadata(SENTENCEPIECE)

    assert tokenizer.encode(text, add_special_tokens=False).tokens == sentencepiece(text)


@given(text=st.text(alphabet="abcé日 \n"))
def test_sentencepiece_text_survives_the_way_there_and_back(text: str) -> None:
    tokenizer = tokenizer_from_metadata(SENTENCEPIECE)

    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids) == text


def test_a_space_is_put_first_only_where_the_file_says_so() -> None:
    metadata = {**SENTENCEPIECE, "tokenizer.ggml.add_space_prefix": False}
    tokenizer = tokenizer_from_metadata(metadata)

    assert tokenizer.encode("abc", add_special_tokens=False).tokens == ["abc"]
    assert tokenizer.decode(tokenizer.encode(" a").ids) == " a"


def test_control_tokens_are_read_whole_and_not_shown() -> None:
    tokenizer = tokenizer_from_metadata(SENTENCEPIECE)

    encoded = tokenizer.encode("<s><|user|>", add_special_tokens=False)

    assert encoded.tokens == ["<s>", "<|user|>"]
    assert tokenizer.decode(encoded.ids, skip_special_tokens=True) == "<|user|>"


def byte_level(pre: str, merges: tuple[str, ...] = ()) -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = (*alphabet, *(merge.replace(" ", "") for merge in merges))
    return tokenizer_from_metadata(
        {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": pre,
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.merges": merges,
        }
    )


def words(tokenizer: Tokenizer, text: str) -> list[str]:
    assert tokenizer.pre_tokenizer is not None
    return [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)]


@pytest.mark.parametrize(
    ("pre", "expected"),
    [
        ("gpt-2", ["a", "Ġ12345", "'s", "Ġ", "ĠB", "'", "S", "!"]),
        ("smollm", ["a", "Ġ", "1", "2", "3", "4", "5", "'s", "Ġ", "ĠB", "'", "S", "!"]),
        ("llama-bpe", ["a", "Ġ", "123", "45", "'s", "Ġ", "ĠB", "'S", "!"]),
        ("qwen2", ["a", "Ġ", "1", "2", "3", "4", "5", "'s", "Ġ", "ĠB", "'S", "!"]),
    ],
)
def test_text_is_split_as_the_pre_tokenizer_says(pre: str, expected: list[str]) -> None:
    assert words(byte_level(pre), "a 12345's  B'S!") == expected


def test_llama3_takes_a_whole_word_that_is_a_token() -> None:
    merges = ("a b", "c d", "ab cd")
    tokenizer = byte_level("llama-bpe", merges)

    assert tokenizer.encode("abcd").tokens == ["abcd"]


def test_qwen_composes_characters_first() -> None:
    tokenizer = byte_level("qwen2")

    assert tokenizer.encode("e\u0301").ids == tokenizer.encode("é").ids


@pytest.mark.parametrize(
    ("change", "words_"),
    [
        ({"tokenizer.ggml.tokens": None}, "no vocabulary"),
        ({"tokenizer.ggml.tokens": ()}, "no vocabulary"),
        ({"tokenizer.ggml.model": "rwkv"}, 'unsupported tokenizer "rwkv"'),
        ({"tokenizer.ggml.scores": (0.0,)}, "scores do not match"),
        ({"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "odd"}, 'pre-tokenizer "odd"'),
        ({"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.merges": ("ab",)}, "is no pair"),
        ({"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.merges": ("x y",)}, "vocabulary lacks"),
    ],
)
def test_a_vocabulary_that_cannot_be_used_is_refused(change: dict[str, Any], words_: str) -> None:
    with pytest.raises(FormatError, match=words_):
        tokenizer_from_metadata({**SENTENCEPIECE, **change})


@pytest.mark.parametrize(
    ("kind", "name", "value", "words"),
    [
        ("gpt2", "tokens", (1, 2), "tokens are not a list of str"),
        ("gpt2", "merges", 1, "merges are not a list of str"),
        ("gpt2", "merges", (1,), "merges are not a list of str"),
        ("gpt2", "merges", ("b a",), "make tokens that its vocabulary lacks"),
        ("gpt2", "token_type", 1, "token_type are not a list of int"),
        ("gpt2", "token_type", (1,), "token_type does not match"),
        ("gpt2", "token_type", (1, 1, 1, 1), "token_type does not match"),
        ("llama", "scores", ("x", "y", "z"), "scores are not a list of float"),
        ("llama", "scores", (1.0,), "scores do not match"),
    ],
)
def test_lists_that_do_not_belong_together_are_refused(
    kind: str, name: str, value: object, words: str
) -> None:
    metadata = {
        "tokenizer.ggml.model": kind,
        "tokenizer.ggml.tokens": ("a", "b", "ab"),
        "tokenizer.ggml.scores": (0.0, 0.0, -1.0),
        f"tokenizer.ggml.{name}": value,
    }

    with pytest.raises(FormatError, match=words):
        tokenizer_from_metadata(metadata)


@pytest.mark.parametrize("unknown", ["x", (1,), -1, 99])
def test_an_unknown_token_that_is_none_is_left_out(unknown: object) -> None:
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": ("a", "b", "ab"),
        "tokenizer.ggml.scores": (0.0, 0.0, -1.0),
        "tokenizer.ggml.add_space_prefix": False,
        "tokenizer.ggml.unknown_token_id": unknown,
    }

    assert tokenizer_from_metadata(metadata).encode("ab").ids == [2]
