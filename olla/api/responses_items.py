"""OpenAI's input items -> turns of a conversation (spec/openai-anthropic.md section 6.1).

Items are JSON objects, those of earlier responses too. What was thought goes with what was said or
called next; calls that follow each other are one turn, and so is what is said between a call and
its result. Items and parts of a kind that is not known here are refused by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Any

from olla.api.json_fields import Fields, parse_object
from olla.api.openai_messages import image_from_url
from olla.api.turns import join_first_systems, name_tool_results
from olla.errors import BadInput
from olla.messages import IMAGE_PLACE, Message, ToolCall

_ITEM = "responses.InputItem"
_PART = "responses.InputPart"
_SKIPPED = frozenset({"web_search_call"})


@dataclass(frozen=True, slots=True)
class _Said:
    """The content of a message or of a result."""

    text: str = ""
    images: tuple[bytes, ...] = ()


@dataclass(slots=True)
class _Turns:
    messages: list[Message] = field(default_factory=list)
    thinking: str = ""
    """What was thought and waits for what is said or called."""

    def add(self, role: str, said: _Said) -> None:
        thinking = self._take_thinking() if role == "assistant" else ""
        self.messages.append(Message(role, said.text, thinking, said.images))

    def extend_calls(self, said: _Said) -> None:
        """Say something next to the calls of the last turn."""
        last = self.messages[-1]
        thinking = last.thinking + self._take_thinking()
        self.messages[-1] = replace(last, content=last.content + said.text, thinking=thinking)

    def call(self, call: ToolCall) -> None:
        if not self.messages or self.messages[-1].role != "assistant":
            self.messages.append(Message("assistant"))
        last = self.messages[-1]
        self.messages[-1] = replace(
            last,
            thinking=last.thinking + self._take_thinking(),
            tool_calls=(*last.tool_calls, call),
        )

    def finish(self) -> None:
        if self.thinking:
            self.messages.append(Message("assistant", thinking=self._take_thinking()))

    def _take_thinking(self) -> str:
        thinking, self.thinking = self.thinking, ""
        return thinking


def messages_from_items(instructions: str, items: Sequence[dict[str, Any]]) -> tuple[Message, ...]:
    """
    Raises:
        BadInput: an item that is broken or of a kind that cannot be read here.
    """
    turns = _Turns()
    if instructions:
        turns.add("system", _Said(instructions))
    fields = [Fields(item, _ITEM) for item in items]
    for index, (item, following) in enumerate(zip_longest(fields, fields[1:])):
        _read(turns, index, item, following)
    turns.finish()
    return tuple(name_tool_results(tuple(join_first_systems(turns.messages))))


def joined_name(fields: Fields) -> str:
    """The name by which the model knows a function, with its namespace."""
    namespace, name = fields.text("namespace"), fields.text("name")
    return f"{namespace}.{name}" if namespace else name


def _read(turns: _Turns, index: int, item: Fields, following: Fields | None) -> None:
    kind = item.text("type") or ("message" if item.text("role") else "")
    if kind == "message":
        _read_message(turns, item, following)
    elif kind == "reasoning":
        turns.thinking += item.text("encrypted_content") or _summary(item)
    elif kind == "function_call":
        turns.call(ToolCall(joined_name(item), _arguments(item), item.text("call_id")))
    elif kind == "function_call_output":
        said = _said(item, "output")
        result = Message("tool", said.text, images=said.images, tool_call_id=item.text("call_id"))
        turns.messages.append(result)
    elif kind not in _SKIPPED:
        raise BadInput(f'input[{index}]: unknown input item type: "{kind}"')


def _read_message(turns: _Turns, item: Fields, following: Fields | None) -> None:
    role = item.text("role").lower()
    role = "system" if role == "developer" else role
    said = _said(item, "content")
    if role == "assistant" and turns.messages and _answers(following, turns.messages[-1]):
        turns.extend_calls(said)
    else:
        turns.add(role, said)


def _answers(item: Fields | None, message: Message) -> bool:
    """Whether the item is the result of one of the message's calls."""
    if item is None or item.text("type") != "function_call_output":
        return False
    return item.text("call_id") in {call.id for call in message.tool_calls}


def _summary(item: Fields) -> str:
    return "\n".join(part.text("text") for part in item.objects("summary", "responses.Summary"))


def _arguments(item: Fields) -> dict[str, Any]:
    try:
        return parse_object(item.text("arguments") or "{}")
    except BadInput as error:
        raise BadInput(f"failed to parse function call arguments: {error}") from error


def _said(item: Fields, name: str) -> _Said:
    """One text, or a list of parts."""
    if not isinstance(item.raw(name), list):
        return _Said(item.text(name))
    return _joined(_part(part) for part in item.objects(name, _PART))


def _joined(parts: Iterable[_Said]) -> _Said:
    known = tuple(parts)
    images = tuple(image for part in known for image in part.images)
    return _Said("".join(part.text for part in known), images)


def _part(part: Fields) -> _Said:
    kind = part.text("type")
    if kind in {"input_text", "output_text", "text"}:
        return _Said(part.text("text"))
    if kind == "refusal":
        return _Said(part.text("refusal"))
    if kind == "input_image":
        return _Said(IMAGE_PLACE, (image_from_url(part.text("image_url")),))
    if kind == "input_file":
        raise BadInput("file inputs are not currently supported")
    raise BadInput(f"unknown content type: {kind}")
