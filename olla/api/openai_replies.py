"""What OpenAI's replies have in common: their heads, usage and logprobs, whole and in streams.

Whoever asked for several choices gets them numbered, those of one prompt side by side. Knows
neither HTTP nor how the choices are come by.
"""

from __future__ import annotations

import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

from olla.api.ollama_replies import Json, debug_info, join_chunks
from olla.api.sse import event
from olla.requests import ChatChunk, Timings

LEAST_LOGPROB = -9999.0
"""What stands for minus infinity, which JSON has not got."""

DONE = b"data: [DONE]\n\n"


class Reply(ABC):
    """One answer to one request, as events or whole; all its parts have one id and one time.

    Args:
        num_choices: of each prompt; prompt 1 has the choices from `num_choices` on, and so on.
    """

    id_prefix: str
    kind: str
    kind_in_stream: str

    def __init__(self, model: str, num_choices: int = 1, include_usage: bool = False) -> None:
        self._id = f"{self.id_prefix}-{secrets.randbits(63)}"
        self._created = int(time.time())
        self._model = model
        self._num_choices = num_choices
        self._include_usage = include_usage
        self._timings: dict[int, Timings] = {}

    def push(self, index: int, chunk: ChatChunk) -> Iterator[bytes]:
        """The events of some more of choice `index`."""
        if chunk.done_reason is not None:
            self._timings[index] = chunk.timings
        for choice in self._choices_of(index, chunk):
            yield event(self._head(self.kind_in_stream, [choice]) | self._usage_amid())

    def finish(self) -> Iterator[bytes]:
        """The events after all choices have ended."""
        if self._include_usage:
            yield event(self._head(self.kind_in_stream, []) | {"usage": self._usage()})
        yield DONE

    def whole(self, chunks: Mapping[int, list[ChatChunk]]) -> Json:
        """The reply at once: the chunks of each choice joined."""
        joined = {index: join_chunks(chunks[index]) for index in sorted(chunks)}
        self._timings = {index: chunk.timings for index, chunk in joined.items()}
        choices = [self._whole_choice(index, chunk) for index, chunk in joined.items()]
        reply = self._head(self.kind, choices) | {"usage": self._usage()}
        if joined[0].rendered_prompt is not None:
            reply["_debug_info"] = debug_info(joined[0])
        return reply

    @abstractmethod
    def _choices_of(self, index: int, chunk: ChatChunk) -> Iterator[Json]:
        """The choices that a chunk comes to in a stream, each for an event of its own."""

    @abstractmethod
    def _whole_choice(self, index: int, chunk: ChatChunk) -> Json:
        """The choice that a joined chunk is."""

    def _usage_amid(self) -> Json:
        """What an event before the last one says of the usage."""
        return {}

    def _head(self, kind: str, choices: list[Json]) -> Json:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._model,
            "system_fingerprint": "fp_ollama",
            "choices": choices,
        }

    def _usage(self) -> Json:
        """The choices of one prompt share it, so it counts once."""
        every = list(self._timings.values())
        firsts = [t for index, t in self._timings.items() if index % self._num_choices == 0]
        return usage_to_json(
            prompt=sum(timings.num_prompt_tokens for timings in firsts),
            completion=sum(timings.num_tokens for timings in every),
            cached=sum(timings.num_cached_tokens for timings in firsts),
            reasoning=sum(timings.num_thinking_tokens for timings in every),
        )


def usage_to_json(prompt: int, completion: int, cached: int, reasoning: int) -> Json:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }


def finite(logprob: float) -> float:
    return max(logprob, LEAST_LOGPROB)


def when_set(**values: Any) -> Json:
    return {name: value for name, value in values.items() if value}
