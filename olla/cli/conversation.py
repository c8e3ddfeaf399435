"""Conversation: what was said and what was set at one prompt. Knows nothing about commands."""

from __future__ import annotations

from dataclasses import dataclass, field

from olla.cli.reply import View
from olla.client import Client
from olla.client.replies import ReplySettings
from olla.messages import Message


@dataclass(slots=True)
class Conversation:
    """What was said, and what was set, at one prompt.

    `sees`: the model looks at images. `stored`: the messages that the model itself begins with.
    `was_warned`: the person knows that the conversation has outgrown the window.
    """

    client: Client
    settings: ReplySettings
    view: View
    keeps_history: bool = True
    sees: bool = False
    system: str = ""
    messages: list[Message] = field(default_factory=list)
    stored: tuple[Message, ...] = ()
    was_warned: bool = False

    def set_system(self, text: str) -> None:
        """A system message directly before is replaced, so the last of several counts."""
        self.system = text
        if self.messages and self.messages[-1].role == "system":
            self.messages.pop()
        self.messages.append(Message("system", text))

    def clear(self) -> None:
        self.was_warned = False
        self.messages = [Message("system", self.system)] if self.system else []
