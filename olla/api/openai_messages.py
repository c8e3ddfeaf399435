"""The messages of a chat completion -> Messages (spec/openai-anthropic.md section 2.1).

Ollama makes one message of each part of an array, and its templates join neighbours of one role.
Here the parts are one message from the start, texts joined as its templates would and images at
their places: templates that insist on turns refuse two messages of one role. Developers' messages
are the system's.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping

from olla.api.json_fields import Fields, go_type, parse_object
from olla.errors import BadInput
from olla.messages import IMAGE_PLACE, Message, ToolCall

_IMAGE_URL = re.compile(r"data:(image/(jpeg|jpg|png|webp))?;base64,")
_ROLES = {"developer": "system"}


def messages_of(fields: Fields) -> tuple[Message, ...]:
    """
    Raises:
        BadInput: there is none, or one that cannot be read.
    """
    messages: list[Message] = []
    names: dict[str, str] = {}
    for item in fields.objects("messages", "openai.Message"):
        message = _message(item, names)
        names |= {call.id: call.name for call in message.tool_calls}
        messages.append(message)
    if not messages:
        raise BadInput("[] is too short - 'messages'")
    return tuple(messages)


def _message(fields: Fields, names: Mapping[str, str]) -> Message:
    """`names`: those of the calls so far, by their ids."""
    role = fields.text("role").lower()
    calls = tuple(_call(call) for call in fields.objects("tool_calls", "openai.ToolCall"))
    call_id = fields.text("tool_call_id")
    content, images = _content(fields.raw("content"), has_calls=bool(calls))
    return Message(
        role=_ROLES.get(role, role),
        content=content,
        thinking=fields.text("reasoning"),
        images=images,
        tool_calls=calls,
        tool_name=fields.text("name") or names.get(call_id, "") if role == "tool" else "",
        tool_call_id=call_id,
    )


def _call(fields: Fields) -> ToolCall:
    function = fields.child("function", "openai.ToolCallFunction")
    try:
        arguments = parse_object(function.text("arguments"))
    except BadInput as error:
        raise BadInput("invalid tool call arguments") from error
    return ToolCall(function.text("name"), arguments, fields.text("id"))


def _content(content: object, *, has_calls: bool) -> tuple[str, tuple[bytes, ...]]:
    """The text and the images of a message."""
    if isinstance(content, str):
        return content, ()
    if isinstance(content, list):
        return _parts(content)
    if content is None and has_calls:
        return "", ()
    raise BadInput(f"invalid message content type: {go_type(content)}")


def _parts(parts: Iterable[object]) -> tuple[str, tuple[bytes, ...]]:
    content = ""
    images: list[bytes] = []
    is_after_text = False
    for part in parts:
        match part:
            case {"type": "text", "text": str(text)}:
                content += f"\n\n{text}" if is_after_text else text
                is_after_text = True
            case {"type": "image_url", "image_url": {"url": str(url)} | str(url)}:
                images.append(image_from_url(url))
                content += IMAGE_PLACE
                is_after_text = False
            case {"type": "input_audio"}:
                raise BadInput("input_audio is not supported by this server; send text or images")
            case _:
                raise BadInput("invalid message format")
    return content, tuple(images)


def image_from_url(url: str) -> bytes:
    """
    Raises:
        BadInput: it is not one that holds an image's bytes.
    """
    if url.startswith(("http://", "https://")):
        raise BadInput(
            "image URLs are not currently supported, please use base64 encoded data instead"
        )
    head = _IMAGE_URL.match(url)
    if head is None:
        raise BadInput("invalid image input")
    try:
        return base64.b64decode(url[head.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadInput("invalid image input") from error
