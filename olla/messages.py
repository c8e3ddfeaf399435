"""The turns of a conversation, as every dialect is read into and every renderer takes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

IMAGE_PLACE = "[img]"
"""Where in a message's text its next image stands; those without a place stand before the text."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call the model asked for. `arguments` keeps the model's key order."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    id: str = ""


@dataclass(frozen=True, slots=True)
class Tool:
    """A function on offer. `parameters` is its JSON Schema, kept as the client sent it."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `role` is usually system, user, assistant or tool; others pass through."""

    role: str
    content: str = ""
    thinking: str = ""
    images: tuple[bytes, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    tool_name: str = ""
    tool_call_id: str = ""
