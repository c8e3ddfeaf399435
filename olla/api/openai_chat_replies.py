"""Chat completions: chunks -> JSON, whole and as events (spec/openai-anthropic.md 2.2 and 2.3)."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from olla.api.ollama_replies import Json, encode
from olla.api.openai_replies import Reply, finite, when_set
from olla.messages import ToolCall
from olla.requests import ChatChunk, DoneReason, TokenLogprob


class ChatReply(Reply):
    id_prefix = "chatcmpl"
    kind = "chat.completion"
    kind_in_stream = "chat.completion.chunk"

    def __init__(self, model: str, num_choices: int = 1, include_usage: bool = False) -> None:
        super().__init__(model, num_choices, include_usage)
        self._num_deltas: Counter[int] = Counter()
        self._num_calls: Counter[int] = Counter()

    def _choices_of(self, index: int, chunk: ChatChunk) -> Iterator[Json]:
        logprobs = chunk.logprobs
        for delta in self._deltas(index, chunk):
            role = {} if self._num_deltas[index] else {"role": "assistant"}
            self._num_deltas[index] += 1
            yield _choice(index, {"delta": role | delta}, None, logprobs)
            logprobs = ()
        if chunk.done_reason is not None:
            reason = _reason(chunk.done_reason, self._num_calls[index])
            yield _choice(index, {"delta": {}}, reason, ())

    def _deltas(self, index: int, chunk: ChatChunk) -> Iterator[Json]:
        """Thinking comes apart from the rest. An empty chunk says nothing at the end."""
        if chunk.thinking:
            yield {"reasoning": chunk.thinking}
        is_empty = not (chunk.content or chunk.tool_calls)
        says_nothing = chunk.done_reason and self._num_deltas[index] and not chunk.logprobs
        if is_empty and (chunk.thinking or says_nothing):
            return
        calls = _calls(chunk.tool_calls, self._num_calls[index])
        self._num_calls[index] += len(calls)
        yield {"content": chunk.content, **when_set(tool_calls=calls)}

    def _whole_choice(self, index: int, chunk: ChatChunk) -> Json:
        message = {
            "role": "assistant",
            "content": chunk.content,
            **when_set(reasoning=chunk.thinking, tool_calls=_calls(chunk.tool_calls, 0)),
        }
        reason = _reason(chunk.done_reason, len(chunk.tool_calls))
        return _choice(index, {"message": message}, reason, chunk.logprobs)


def _choice(
    index: int, content: Json, reason: str | None, logprobs: Iterable[TokenLogprob]
) -> Json:
    tokens = [_logprob(token) | {"top_logprobs": _top(token)} for token in logprobs]
    choice = {"index": index, **content, "finish_reason": reason}
    return choice | when_set(logprobs={"content": tokens} if tokens else None)


def _calls(calls: Iterable[ToolCall], first: int) -> list[Json]:
    return [
        {
            "id": call.id or f"call_{secrets.token_hex(12)}",
            "index": index,
            "type": "function",
            "function": {"name": call.name, "arguments": encode(call.arguments).decode()},
        }
        for index, call in enumerate(calls, first)
    ]


def _reason(reason: DoneReason | None, num_calls: int) -> str | None:
    return "tool_calls" if num_calls and reason is DoneReason.STOP else reason


def _top(token: TokenLogprob) -> list[Json]:
    return [_logprob(other) for other in token.top]


def _logprob(token: TokenLogprob) -> dict[str, Any]:
    logprob = 0.0 if token.logprob is None else finite(token.logprob)
    return {"token": token.text, "logprob": logprob, "bytes": list(token.raw)}
