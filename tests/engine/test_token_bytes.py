"""A token's bytes are what it adds to the text, however the vocabulary writes them down."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models

from olla.engine.loading import LoadedModel
from olla.engine.token_bytes import TokenBytes
from tests.tiny_model import EOS, save_byte_tokenizer


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    save_byte_tokenizer(folder)
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


@pytest.fixture(scope="module")
def sentencepiece() -> Tokenizer:
    words = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581né", "e"]
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens([AddedToken("<s>", normalized=False)])
    tokenizer.add_tokens([AddedToken("\u2581kept", normalized=False)])
    return tokenizer


@given(text=st.text())
def test_bytes_of_a_byte_level_vocabulary_make_the_text(byte_level: Tokenizer, text: str) -> None:
    token_bytes = TokenBytes(byte_level)

    assert b"".join(map(token_bytes, byte_level.encode(text).ids)) == text.encode()


def test_every_byte_has_a_token_of_a_byte_level_vocabulary(byte_level: Tokenizer) -> None:
    token_bytes = TokenBytes(byte_level)

    assert {token_bytes(token) for token in range(256)} == {bytes([byte]) for byte in range(256)}


@pytest.mark.parametrize(
    ("token", "raw"),
    [
        ("<0x0A>", b"\n"),
        ("<0xE2>", b"\xe2"),
        ("\u2581né", " né".encode()),
        ("e", b"e"),
        ("<s>", b"<s>"),
        ("\u2581kept", "\u2581kept".encode()),
    ],
)
def test_a_sentencepiece_token_stands_for(sentencepiece: Tokenizer, token: str, raw: bytes) -> None:
    assert TokenBytes(sentencepiece)(sentencepiece.get_vocab()[token]) == raw


def test_what_looks_like_a_byte_is_text_where_bytes_have_characters(byte_level: Tokenizer) -> None:
    model = models.BPE({"<0x0A>": 0}, [])
    tokenizer = Tokenizer(model)
    tokenizer.decoder = decoders.ByteLevel()

    assert TokenBytes(tokenizer)(0) == b"<0x0A>"


def test_special_tokens_are_their_text_and_other_numbers_are_nothing(
    byte_level: Tokenizer,
) -> None:
    token_bytes = TokenBytes(byte_level)

    assert (token_bytes(EOS), token_bytes(5000)) == (b"<eos>", b"")


@pytest.mark.weights
def test_a_real_vocabulary_gives_the_bytes_of_a_text(smollm2: LoadedModel) -> None:
    text = "naïve café — 日本語 👩‍👩‍👧‍👦, def f(x):\n    return x\n<|im_end|>"
    tokens = smollm2.tokenizer.encode(text, add_special_tokens=False).ids

    assert b"".join(map(TokenBytes(smollm2.tokenizer), tokens)) == text.encode()
