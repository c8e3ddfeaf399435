"""Completions: chunks -> JSON, whole and as events (spec/openai-anthropic.md section 3).

Thinking is not part of a completion. Logprobs have the shape of old: lists side by side, the
chosen token always among the likeliest ones, and a token that is part of a character written as
`bytes:\\xe2`, so that no two of them read alike.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator

from olla.api.ollama_replies import Json
from olla.api.openai_replies import Reply, finite, usage_to_json, when_set
from olla.requests import ChatChunk, TokenLogprob


class CompletionReply(Reply):
    id_prefix = "cmpl"
    kind = "text_completion"
    kind_in_stream = "text_completion"

    def __init__(self, model: str, num_choices: int = 1, include_usage: bool = False) -> None:
        super().__init__(model, num_choices, include_usage)
        self._offsets: dict[int, Offsets] = {}

    def _choices_of(self, index: int, chunk: ChatChunk) -> Iterator[Json]:
        yield self._whole_choice(index, chunk)

    def _whole_choice(self, index: int, chunk: ChatChunk) -> Json:
        offsets = self._offsets.setdefault(index, Offsets())
        logprobs = _logprobs(chunk.logprobs, offsets) if chunk.logprobs else None
        choice = {"text": chunk.content, "index": index, "finish_reason": chunk.done_reason}
        return choice | when_set(logprobs=logprobs)

    def _usage_amid(self) -> Json:
        return {"usage": usage_to_json(0, 0, 0, 0)} if self._include_usage else {}


class Offsets:
    """Where tokens begin in a text, in characters, as their bytes come along."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._num_characters = 0

    def push(self, raw: bytes) -> int:
        """Where a token begins; a part of a character begins where the character does."""
        start = self._num_characters
        self._num_characters += len(self._decoder.decode(raw))
        return start


def _logprobs(tokens: Iterable[TokenLogprob], offsets: Offsets) -> Json:
    tokens = tuple(tokens)
    return {
        "text_offset": [offsets.push(token.raw) for token in tokens],
        "token_logprobs": [_finite(token) for token in tokens],
        "tokens": [_name(token) for token in tokens],
        "top_logprobs": [_top(token) for token in tokens],
    }


def _finite(token: TokenLogprob) -> float | None:
    return None if token.logprob is None else finite(token.logprob)


def _top(token: TokenLogprob) -> dict[str, float] | None:
    """None for what nothing predicts. Of tokens that read alike the likeliest stays."""
    if token.logprob is None:
        return None
    top: dict[str, float] = {}
    for other in (*token.top, token):
        if other.logprob is not None:
            top.setdefault(_name(other), finite(other.logprob))
    return top


def _name(token: TokenLogprob) -> str:
    try:
        token.raw.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token.raw)
    return token.text
