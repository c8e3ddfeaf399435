"""TokenBytes: what a single token stands for, in bytes.

A vocabulary is written in one of two ways: with a printable character for each byte (byte-level
BPE), or as text with "▁" for a space and "<0x0A>" for a byte that is part of no word
(SentencePiece). Which one, the tokenizer's decoder tells.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from tokenizers import Tokenizer

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_SPACE = "\u2581"


class TokenBytes:
    """The bytes of each token of one vocabulary. Safe to call from several threads."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        # Added tokens, special ones among them, are written as they are in any vocabulary.
        added = tokenizer.get_added_tokens_decoder()
        self._known = {number: token.content.encode() for number, token in added.items()}
        # A decoder's state is its JSON; that of the whole tokenizer takes a while to write.
        decoder = tokenizer.decoder
        state = None if decoder is None else json.loads(decoder.__getstate__())
        kinds = set(_decoder_kinds(state))
        self._bytes_of_characters = _byte_level_alphabet() if "ByteLevel" in kinds else {}
        self._falls_back = "ByteFallback" in kinds

    def __call__(self, token: int) -> bytes:
        """The token's bytes; none for a number that the tokenizer has no token for."""
        known = self._known.get(token)
        if known is None:
            known = self._known[token] = self._read(self._tokenizer.id_to_token(token) or "")
        return known

    def _read(self, text: str) -> bytes:
        if self._bytes_of_characters:
            return b"".join(self._bytes_of_characters.get(c) or c.encode() for c in text)
        byte = _BYTE.fullmatch(text) if self._falls_back else None
        return bytes([int(byte[1], 16)]) if byte else text.replace(_SPACE, " ").encode()


def _decoder_kinds(decoder: dict[str, Any] | None) -> Iterator[str]:
    """The types of a serialized decoder and of those that it is made of."""
    if decoder is not None:
        yield decoder["type"]
        for part in decoder.get("decoders", []):
            yield from _decoder_kinds(part)


def _byte_level_alphabet() -> dict[str, bytes]:
    """Which byte a character stands for: itself where it is printable Latin-1, else the next
    character from U+0100 on (GPT-2's encoder.py).
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    characters = {chr(byte): bytes([byte]) for byte in printable}
    return characters | {chr(256 + place): bytes([byte]) for place, byte in enumerate(others)}
