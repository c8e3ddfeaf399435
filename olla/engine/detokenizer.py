"""Detokenizer: token ids -> text as they come, never half a character.

A token's text can depend on its neighbours (bytes of one character, a space at the start of a
word), so each piece is what decoding a short window yields beyond what it yielded before.
"""

from __future__ import annotations

from tokenizers import Tokenizer

REPLACEMENT = "\ufffd"
_CONTEXT_TOKENS = 4
_LONGEST_CHARACTER_TOKENS = 8


class Detokenizer:
    """The text of one reply. Special tokens have none."""

    def __init__(self, tokenizer: Tokenizer, prompt: list[int]) -> None:
        self._tokenizer = tokenizer
        self._window = prompt[-_CONTEXT_TOKENS:]
        self._num_shown = len(self._window)

    def push(self, token: int) -> str:
        """The text that this token completes; "" while a character is unfinished."""
        self._window.append(token)
        num_open = len(self._window) - self._num_shown
        text = self._unshown()
        if text.endswith(REPLACEMENT) and num_open < _LONGEST_CHARACTER_TOKENS:
            return ""
        self._slide()
        return text

    def finish(self) -> str:
        """What is left: a character that the reply ended inside of."""
        text = self._unshown()
        self._slide()
        return text

    def _unshown(self) -> str:
        shown = self._decode(self._window[: self._num_shown])
        return self._decode(self._window)[len(shown) :]

    def _slide(self) -> None:
        self._window = self._window[-_CONTEXT_TOKENS:]
        self._num_shown = len(self._window)

    def _decode(self, tokens: list[int]) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True))
