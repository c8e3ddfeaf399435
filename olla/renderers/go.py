"""GoTemplate: a template in Go's language, as Ollama's models carry them.

Owns the three ways in which such a template is executed (spec/modelfile.md sections 5.2 to 5.4):
once for a prompt with a suffix, once for all messages, or once for each exchange where it knows
only prompt and response. A turn of the assistant at the end is continued.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import date
from typing import Any

from olla.gotemplate.analysis import tree_variables
from olla.gotemplate.budget import Budget
from olla.gotemplate.evaluate import execute
from olla.gotemplate.parser import parse
from olla.gotemplate.response import until_response, with_response
from olla.messages import Message
from olla.renderers.conversation import Conversation
from olla.renderers.go_values import message_value, think_variables, tools_value
from olla.renderers.images import tag_images


class GoTemplate:
    """Frozen once made; safe to use from several threads."""

    # The tokenizer adds its own where the text does not begin with them already.
    add_special_tokens = True

    def __init__(self, text: str) -> None:
        """
        Raises:
            TemplateError: it is too long, or does not parse.
        """
        self._whole = with_response(parse(text))
        self._cut = until_response(self._whole)
        self._takes_messages = "messages" in tree_variables(self._whole)

    def render(self, conversation: Conversation) -> str:
        """Write the prompt.

        Raises:
            TemplateError: the template fails, or runs past its limits.
        """
        messages = collate(tag_images(conversation.messages))
        budget = Budget(len(messages))
        think = think_variables(conversation.think)
        if conversation.suffix:
            prompt = messages[-1].content if messages else ""
            data = {"Prompt": prompt, "Suffix": conversation.suffix, "Response": "", **think}
            return execute(self._whole, data, budget)
        if self._takes_messages:
            return execute(self._whole, _chat(messages, conversation) | think, budget)
        return self._exchanges(messages, think, budget)

    def _exchanges(self, messages: Iterable[Message], think: dict[str, Any], budget: Budget) -> str:
        today = date.today()
        written = []
        turns = _Turns()
        for message in messages:
            if turns.is_over_at(message.role):
                written.append(execute(self._whole, turns.data | think, budget, today))
                turns = _Turns()
            turns.take(message)
        return "".join([*written, execute(self._cut, turns.data | think, budget, today)])


class _Turns:
    """One exchange: what the system, the user and the assistant say in it, in this order."""

    def __init__(self) -> None:
        self.data = {"System": "", "Prompt": "", "Response": ""}

    def is_over_at(self, role: str) -> bool:
        if role == "system":
            return bool(self.data["Prompt"] or self.data["Response"])
        return role == "user" and bool(self.data["Response"])

    def take(self, message: Message) -> None:
        names = {"system": "System", "user": "Prompt", "assistant": "Response"}
        if message.role in names:
            self.data[names[message.role]] = message.content


def collate(messages: Iterable[Message]) -> list[Message]:
    """Turns of one role that follow each other become one, but for those of tools."""
    collated: list[Message] = []
    for message in messages:
        if collated and collated[-1].role == message.role != "tool":
            last = collated[-1]
            collated[-1] = replace(
                last,
                content=f"{last.content}\n\n{message.content}",
                thinking=last.thinking or message.thinking,
                images=last.images + message.images,
                tool_calls=last.tool_calls + message.tool_calls,
            )
        else:
            collated.append(message)
    return collated


def _chat(messages: Iterable[Message], conversation: Conversation) -> dict[str, Any]:
    system = (turn.content for turn in conversation.messages if turn.role == "system")
    return {
        "System": "\n\n".join(system),
        "Messages": [message_value(message) for message in messages],
        "Tools": tools_value(conversation.tools) if conversation.tools else None,
        "Response": "",
    }
