"""Events of a stream as server-sent events write them. Knows no dialect and no HTTP."""

from __future__ import annotations

from typing import Any

from olla.api.ollama_replies import encode


def event(value: Any, name: str = "") -> bytes:
    """One event: `value` as JSON, which has no line breaks, under `name` if it has one."""
    head = b"event: %b\n" % name.encode() if name else b""
    return b"%bdata: %b\n\n" % (head, encode(value))
