"""Which dialect a path speaks, and how that dialect tells of errors.

Everything under /v1 is OpenAI's but for Anthropic's messages; the rest is Ollama's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from olla.api import anthropic_errors, ollama_replies, openai_errors
from olla.errors import OllaError

_MESSAGES = "/v1/messages"


@dataclass(frozen=True, slots=True)
class Dialect:
    """`error_to_event` writes what ends a stream that broke."""

    error_to_json: Callable[[OllaError, int], ollama_replies.Json]
    error_to_event: Callable[[OllaError, int], bytes]


def _ollama_error(error: OllaError, status: int) -> ollama_replies.Json:
    return ollama_replies.error_to_json(str(error))


def _ollama_line(error: OllaError, status: int) -> bytes:
    return ollama_replies.encode(_ollama_error(error, status)) + b"\n"


OLLAMA = Dialect(_ollama_error, _ollama_line)
OPENAI = Dialect(openai_errors.error_to_json, openai_errors.error_to_event)
ANTHROPIC = Dialect(anthropic_errors.error_to_json, anthropic_errors.error_to_event)


def dialect_of(path: str) -> Dialect:
    if _is_within(path, _MESSAGES):
        return ANTHROPIC
    return OPENAI if _is_within(path, "/v1") else OLLAMA


def _is_within(path: str, prefix: str) -> bool:
    return path == prefix or path.startswith(f"{prefix}/")
