"""Detokenizer: token ids -> text as they come, never half a character.

A token's text can depend on its neighbours (bytes of one character, a space at the start of a
word), so each piece is what decoding a short window yields beyond what it yielded before.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer

REPLACEMENT = "\ufffd"
_CONTEXT_TOKENS = 8
_LONGEST_CHARACTER_TOKENS = 8


class Detokenizer:
    """The text of one reply. Special tokens have none, but for those whose text is `shown`."""

    def __init__(self, tokenizer: Tokenizer, prompt: list[int], shown: Iterable[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._hidden = _hidden_ids(tokenizer, frozenset(shown))
        self._window = prompt[-_CONTEXT_TOKENS:]
        # From a whole character on: a decoder may give up on all bytes in a row if some are astray.
        while self._window and self._decode(self._window).startswith(REPLACEMENT):
            del self._window[0]
        self._num_shown = len(self._window)

    def push(self, token: int) -> str:
        """The text that this token completes; "" while a character is unfinished."""
        self._window.append(token)
        num_open = len(self._window) - self._num_shown
        text = self._unshown()
        if text.endswith(REPLACEMENT) and num_open < _LONGEST_CHARACTER_TOKENS:
            return ""
        if text or self._num_shown > _CONTEXT_TOKENS:
            # What was shown last is context enough, and begins with a whole character.
            del self._window[: self._num_shown]
        self._num_shown = len(self._window)
        return text

    def finish(self) -> str:
        """What is left: a character that the reply ended inside of."""
        return self._unshown()

    def _unshown(self) -> str:
        shown = self._decode(self._window[: self._num_shown])
        return self._decode(self._window)[len(shown) :]

    def _decode(self, tokens: list[int]) -> str:
        if self._hidden is None:
            return str(self._tokenizer.decode(tokens, skip_special_tokens=True))
        kept = [token for token in tokens if token not in self._hidden]
        return str(self._tokenizer.decode(kept, skip_special_tokens=False))


def _hidden_ids(tokenizer: Tokenizer, shown: frozenset[str]) -> frozenset[int] | None:
    """The special tokens that have no text; None if those are all."""
    special = {
        number: token.content
        for number, token in (tokenizer.get_added_tokens_decoder() if shown else {}).items()
        if token.special
    }
    if shown.isdisjoint(special.values()):
        return None
    return frozenset(number for number, text in special.items() if text not in shown)
