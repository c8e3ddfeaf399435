"""Anthropic's messages: content blocks -> turns of a conversation (spec/openai-anthropic.md 8.2).

One of their messages becomes several of ours when it carries tools' results. Skipped, since only
who wrote it can read it: `redacted_thinking`. Other blocks that are not known are refused by name.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from olla.api.json_fields import Fields
from olla.api.turns import name_tool_results
from olla.errors import BadInput
from olla.messages import IMAGE_PLACE, Message, ToolCall


@dataclass(slots=True)
class _Turn:
    """What the blocks of one message add up to."""

    texts: list[str] = field(default_factory=list)
    thinking: list[str] = field(default_factory=list)
    images: list[bytes] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    results: list[Message] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        return not (any(self.texts) or any(self.thinking) or self.images or self.calls)


def messages_from_fields(fields: Fields) -> tuple[Message, ...]:
    """
    Raises:
        BadInput: a block that is broken or cannot be read here, or nothing but empty messages.
    """
    turns = (turn for item in fields.objects("messages", _MESSAGE) for turn in _turns(item))
    messages = tuple(name_tool_results(turns))
    if not messages:
        raise BadInput("messages is required")
    return messages


def system_from_fields(fields: Fields) -> tuple[Message, ...]:
    """The system prompt, a text or text blocks, as the first message; none when it is empty."""
    if isinstance(fields.raw("system"), list):
        text = "".join(block.text("text") for block in fields.objects("system", _BLOCK))
    else:
        text = fields.text("system")
    return (Message("system", text),) if text else ()


_ROLES = ("user", "assistant", "system")


def _turns(fields: Fields) -> Iterator[Message]:
    """Results come before what a user says next to them, and after what others say."""
    role = fields.text("role").lower()
    if role not in _ROLES:
        raise BadInput('each of "messages" needs a "role": "user" or "assistant"')
    turn = _read(fields)
    said = Message(
        role,
        content="".join(turn.texts),
        thinking="".join(turn.thinking),
        images=tuple(turn.images),
        tool_calls=tuple(turn.calls),
    )
    if role == "user":
        yield from turn.results
    if not turn.is_empty or isinstance(fields.raw("content"), str):
        yield said
    if role != "user":
        yield from turn.results


def _read(fields: Fields, name: str = "content") -> _Turn:
    """The content of a message or of a block: one text, or a list of blocks."""
    turn = _Turn()
    if not isinstance(fields.raw(name), list):
        turn.texts.append(fields.text(name))
        return turn
    for block in fields.objects(name, _BLOCK):
        kind = block.text("type")
        reader = _READERS.get(kind)
        if reader is None:
            raise BadInput(f'content blocks of type "{kind}" are not supported by this server')
        reader(turn, block)
    return turn


def _read_text(turn: _Turn, block: Fields) -> None:
    turn.texts.append(block.text("text"))


def _read_thinking(turn: _Turn, block: Fields) -> None:
    turn.thinking.append(block.text("thinking"))


def _read_image(turn: _Turn, block: Fields) -> None:
    source = block.child("source", "anthropic.ImageSource")
    kind = source.text("type")
    if not kind:
        raise BadInput("invalid image source")
    if kind != "base64":
        raise BadInput(f"invalid image source type: {kind}. Only base64 images are supported.")
    try:
        turn.images.append(base64.b64decode(source.text("data"), validate=True))
    except (binascii.Error, ValueError) as error:
        raise BadInput(f"invalid base64 image data: {error}") from error
    turn.texts.append(IMAGE_PLACE)


def _read_document(turn: _Turn, block: Fields) -> None:
    source = block.child("source", "anthropic.DocumentSource")
    kind = source.text("type")
    heading = [text for name in ("title", "context") if (text := block.text(name))]
    turn.texts += [f"{text}\n" for text in heading]
    if kind == "text":
        turn.texts.append(source.text("data"))
    elif kind == "content":
        inner = _read(source)
        turn.texts += inner.texts
        turn.images += inner.images
    else:
        what = source.text("media_type") or kind
        raise BadInput(
            f'documents of type "{what}" are not supported by this server: send them as text'
        )


def _read_search_result(turn: _Turn, block: Fields) -> None:
    heading = "".join(f"{block.text(name)}\n" for name in ("title", "source"))
    inner = _read(block)
    turn.texts += [heading, *inner.texts]
    turn.images += inner.images


def _read_call(turn: _Turn, block: Fields) -> None:
    for name in ("id", "name"):
        if not block.text(name):
            raise BadInput(f"{block.text('type')} block missing required '{name}' field")
    turn.calls.append(ToolCall(block.text("name"), block.object("input"), block.text("id")))


def _read_result(turn: _Turn, block: Fields) -> None:
    inner = _read(block)
    turn.results.append(
        Message(
            "tool",
            content="".join(inner.texts),
            images=tuple(inner.images),
            tool_call_id=block.text("tool_use_id"),
        )
    )


def _read_search_results(turn: _Turn, block: Fields) -> None:
    if isinstance(block.raw("content"), list):
        found = block.objects("content", "anthropic.WebSearchResult")
        text = "\n".join(f"Title: {r.text('title')}\nURL: {r.text('url')}" for r in found)
    else:
        error = block.child("content", "anthropic.WebSearchError").text("error_code")
        text = f"Error: {error}"
    turn.results.append(Message("tool", text, tool_call_id=block.text("tool_use_id")))


def _read_reference(turn: _Turn, block: Fields) -> None:
    turn.texts.append(block.text("tool_name"))


def _skip(turn: _Turn, block: Fields) -> None:
    """Nothing of it can be used."""


_MESSAGE = "anthropic.MessageParam"
_BLOCK = "anthropic.ContentBlock"
_READERS: Mapping[str, Callable[[_Turn, Fields], None]] = {
    "text": _read_text,
    "thinking": _read_thinking,
    "redacted_thinking": _skip,
    "image": _read_image,
    "document": _read_document,
    "search_result": _read_search_result,
    "tool_use": _read_call,
    "tool_result": _read_result,
    "tool_reference": _read_reference,
    "server_tool_use": _read_call,
    "web_search_tool_result": _read_search_results,
}
