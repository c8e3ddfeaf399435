"""Conversation: all that a renderer may know about the prompt it writes.

A value; knows neither templates nor models.
"""

from __future__ import annotations

from dataclasses import dataclass

from olla.messages import Message, Tool


@dataclass(frozen=True, slots=True)
class Conversation:
    """`think` is None where the template should not hear of it. The tokens may be "".

    With a `suffix`, the last message is the text before it, and what lies between is wanted.
    """

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    think: bool | str | None = None
    suffix: str = ""
    bos_token: str = ""
    eos_token: str = ""
