"""Text comes out in whole characters, and all of it comes out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from olla.engine.detokenizer import REPLACEMENT, Detokenizer
from olla.engine.loading import LoadedModel
from tests.tiny_model import EOS, save_byte_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """One token for each byte, so every character but ASCII takes several."""
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    save_byte_tokenizer(folder)
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


@pytest.fixture(scope="module")
def byte_fallback() -> Tokenizer:
    """As SentencePiece models have it: words, and a token for each byte of what is no word."""
    words = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581a", "a"]
    vocabulary = {word: index for index, word in enumerate(words)}
    model = models.BPE(vocabulary, merges=[], unk_token="<unk>", byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(),
         decoders.Strip(" ", 1, 0)]
    )  # fmt: skip
    return tokenizer


def pieces(tokenizer: Tokenizer, tokens: list[int], prompt: Sequence[int] = ()) -> list[str]:
    detokenizer = Detokenizer(tokenizer, list(prompt))
    return [*(detokenizer.push(token) for token in tokens), detokenizer.finish()]


@given(text=st.text())
def test_the_pieces_make_the_text(tokenizer: Tokenizer, text: str) -> None:
    assert "".join(pieces(tokenizer, tokenizer.encode(text).ids)) == text


@given(text=st.text(alphabet="aé日👩"))
def test_no_piece_holds_part_of_a_character(tokenizer: Tokenizer, text: str) -> None:
    assert REPLACEMENT not in "".join(pieces(tokenizer, tokenizer.encode(text).ids))


@given(text=st.text(alphabet="aé字👩"), prompt=st.text(alphabet="aé字👩"))
def test_bytes_of_characters_in_a_row_make_the_characters(
    byte_fallback: Tokenizer, text: str, prompt: str
) -> None:
    before, tokens = (byte_fallback.encode(part).ids for part in (f"a{prompt}", text))

    assert "".join(pieces(byte_fallback, tokens, before)) == text


def test_a_space_after_a_special_token_is_kept(byte_fallback: Tokenizer) -> None:
    byte_fallback.add_special_tokens(["<s>"])
    word, special = (byte_fallback.get_vocab()[text] for text in ("\u2581a", "<s>"))

    assert "".join(pieces(byte_fallback, [special, word, special, word], [word])) == " a a"


def test_a_character_that_is_never_finished_shows_as_a_replacement(tokenizer: Tokenizer) -> None:
    half = tokenizer.encode("é").ids[:1]

    assert pieces(tokenizer, half) == ["", REPLACEMENT]


def test_bytes_that_are_no_text_do_not_hold_up_the_stream(tokenizer: Tokenizer) -> None:
    stray = tokenizer.encode("é").ids[1:]

    assert any(pieces(tokenizer, stray * 20)[:-1])


def test_special_tokens_have_no_text(tokenizer: Tokenizer) -> None:
    assert pieces(tokenizer, [EOS, *tokenizer.encode("a").ids, EOS]) == ["", "a", "", ""]


@pytest.mark.weights
def test_a_real_vocabulary_streams_what_it_decodes(smollm2: LoadedModel) -> None:
    text = "naïve café — 日本語 👩‍👩‍👧‍👦, def f(x):\n    return x\n"
    tokens = smollm2.tokenizer.encode(text, add_special_tokens=False).ids

    assert "".join(pieces(smollm2.tokenizer, tokens)) == text


@pytest.fixture(scope="module")
def tagged(tokenizer: Tokenizer) -> Tokenizer:
    """With tags that are special tokens, as reasoning models have them."""
    copy: Tokenizer = Tokenizer.from_str(tokenizer.to_str())
    copy.add_special_tokens(["[THINK]", "[/THINK]", "[END]"])
    return copy


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        ((), "aébc"),
        (("[THINK]", "<|no such token|>"), "[THINK]aébc"),
        (("[THINK]", "[/THINK]"), "[THINK]aé[/THINK]bc"),
        (("<|no such token|>",), "aébc"),
    ],
)
def test_special_tokens_have_text_where_they_are_to_be_shown(
    tagged: Tokenizer, shown: tuple[str, ...], text: str
) -> None:
    tokens = tagged.encode("[THINK]aé[/THINK]b[END]c").ids
    detokenizer = Detokenizer(tagged, tokens[:1] * 3, shown)

    parts = [*(detokenizer.push(token) for token in tokens), detokenizer.finish()]

    assert "".join(parts) == text
