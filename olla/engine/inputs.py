"""Texts and token ids -> what a model reads: with its special tokens, and no longer than it can.

Knows tokenizers, no networks. Every reading is checked against the vocabulary, so nothing that a
client sends reaches a network's tables out of bounds (spec/api.md section 6.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

from olla.errors import BadInput, PromptTooLong

TOO_LONG = "the input length exceeds the context length"
NO_ROOM = "input after truncation exceeds maximum context length"


@dataclass(frozen=True, slots=True)
class Reading:
    """Token ids, and for each which of two texts it belongs to."""

    tokens: list[int]
    types: list[int]


class InputReader:
    """Not for several threads at once."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, context_length: int) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._context_length = context_length
        self._before, self._after = _special_tokens(tokenizer)
        self._pairs: Tokenizer | None = None

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        """Token ids of `text`.

        Raises:
            BadInput: it holds what the vocabulary has no token for.
        """
        (tokens,) = self._encode([text])
        return self._framed(tokens) if add_special_tokens else tokens

    def decode(self, tokens: list[int]) -> str:
        """The text of `tokens`, special ones included.

        Raises:
            BadInput: a number that is no token.
        """
        self._check(tokens)
        return str(self._tokenizer.decode(tokens, skip_special_tokens=False))

    def read(
        self, inputs: Sequence[str | list[int]], num_ctx: int, truncate: bool
    ) -> list[Reading]:
        """
        Raises:
            BadInput: an input without tokens, or with what is none; a window without room.
            PromptTooLong: an input does not fit and may not be cut.
        """
        texts = self._encode([item for item in inputs if isinstance(item, str)])
        found = iter(texts)
        tokens = [next(found) if isinstance(item, str) else item for item in inputs]
        limit = self._limit(num_ctx)
        readings = [self._fitted(item, limit, truncate) for item in tokens]
        for reading in readings:
            self._check(reading)
        return [Reading(reading, [0] * len(reading)) for reading in readings]

    def read_pairs(self, query: str, documents: Sequence[str], num_ctx: int) -> list[Reading]:
        """The query with each document, of which the longer one is cut; raises as `read`."""
        tokenizer = self._pair_tokenizer(self._limit(num_ctx))
        try:
            pairs = tokenizer.encode_batch([(query, document) for document in documents])
        except Exception as error:  # tokenizers raises nothing narrower
            raise BadInput(f"the text cannot be tokenized: {error}") from error
        for pair in pairs:
            self._check(pair.ids)
        return [Reading(pair.ids, pair.type_ids) for pair in pairs]

    def _pair_tokenizer(self, limit: int) -> Tokenizer:
        if self._pairs is None:  # a copy, since what cuts is a state of the tokenizer
            self._pairs = Tokenizer.from_str(self._tokenizer.to_str())
        if limit <= self._pairs.num_special_tokens_to_add(True):
            raise BadInput(NO_ROOM)
        self._pairs.enable_truncation(limit, strategy="longest_first")
        return self._pairs

    def _limit(self, num_ctx: int) -> int:
        return min(num_ctx, self._context_length)

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        try:
            encodings = self._tokenizer.encode_batch(texts, add_special_tokens=False)
        except Exception as error:  # tokenizers raises nothing narrower
            raise BadInput(f"the text cannot be tokenized: {error}") from error
        return [encoding.ids for encoding in encodings]

    def _framed(self, tokens: list[int], room: int | None = None) -> list[int]:
        """With the special tokens that are not there yet, and no more of its own than fit."""
        before = [] if tokens[: len(self._before)] == self._before else self._before
        has_end = bool(self._after) and tokens[-len(self._after) :] == self._after
        after = [] if has_end else self._after
        if room is not None and len(before) + len(tokens) + len(after) > room:
            kept = room - len(before) - len(after)
            if kept <= 0:
                raise BadInput(NO_ROOM)
            tokens = tokens[:kept]
        return [*before, *tokens, *after]

    def _fitted(self, tokens: list[int], limit: int, truncate: bool) -> list[int]:
        framed = self._framed(tokens)
        if not framed:
            raise BadInput("the input is empty: it has no tokens to make a vector of")
        if len(framed) <= limit:
            return framed
        if not truncate:
            raise PromptTooLong(TOO_LONG)
        return self._framed(tokens, limit)

    def _check(self, tokens: list[int]) -> None:
        bad = [token for token in tokens if not 0 <= token < self._vocab_size]
        if bad:
            raise BadInput(f"token {bad[0]} is not in the vocabulary of {self._vocab_size}")


def _special_tokens(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """What the tokenizer puts before a text and after it, seen on a short one."""
    bare = tokenizer.encode("a", add_special_tokens=False).ids
    whole = tokenizer.encode("a").ids
    num_added = len(whole) - len(bare)
    start = next((n for n in range(num_added + 1) if whole[n : n + len(bare)] == bare), num_added)
    return whole[:start], whole[start + len(bare) :]
