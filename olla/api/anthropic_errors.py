"""Anthropic's errors: what went wrong as a JSON object (spec/openai-anthropic.md section 8.1)."""

from __future__ import annotations

import secrets

from olla.api.ollama_replies import Json
from olla.api.sse import event
from olla.caller import CALLER
from olla.errors import OllaError

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    529: "overloaded_error",
}


def error_to_json(error: OllaError, status: int) -> Json:
    return {
        "type": "error",
        "error": {"type": _TYPES.get(status, "api_error"), "message": str(error)},
        "request_id": f"req_{CALLER.get().request_id or secrets.token_hex(12)}",
    }


def error_to_event(error: OllaError, status: int) -> bytes:
    """The last event of a stream that broke."""
    return event(error_to_json(error, status), "error")
