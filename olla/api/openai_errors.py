"""OpenAI's errors: what went wrong as a JSON object (spec/openai-anthropic.md section 1.1).

The official clients choose their exception by the status; `code` tells what a program may act on.
"""

from __future__ import annotations

from olla.api.ollama_replies import Json
from olla.api.sse import event
from olla.errors import KeyMissing, KeyRefused, OllaError, PromptTooLong

_TYPES = {400: "invalid_request_error", 404: "not_found_error"}
_TYPES_OF_KEYS: dict[type[OllaError], str] = {
    KeyMissing: "authentication_error",
    KeyRefused: "permission_error",
}
_CODES: dict[type[OllaError], str] = {
    PromptTooLong: "context_length_exceeded",
    KeyMissing: "invalid_api_key",
}


def error_to_json(error: OllaError, status: int) -> Json:
    code = _CODES.get(type(error))
    kind = _TYPES_OF_KEYS.get(type(error)) or _TYPES.get(status, "api_error")
    return {"error": {"message": str(error), "type": kind, "param": None, "code": code}}


def error_to_event(error: OllaError, status: int) -> bytes:
    """The last event of a stream that broke; no `[DONE]` follows."""
    return event(error_to_json(error, status))
