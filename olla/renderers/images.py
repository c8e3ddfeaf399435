"""Images in messages, as templates know them: parts of the content, or tags in the text.

Knows no image: a place is all that a prompt has of one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from olla.messages import IMAGE_PLACE, Message


def tag_images(messages: Iterable[Message]) -> list[Message]:
    """Each image gets its place in the text: that of an `[img]`, or else the beginning.

    Images are numbered through the whole conversation.
    """
    tagged = []
    number = 0
    for message in messages:
        content, prefix = message.content, ""
        for _ in message.images:
            tag = f"[img-{number}]"
            number += 1
            if IMAGE_PLACE in content:
                content = content.replace(IMAGE_PLACE, tag, 1)
            else:
                prefix += tag
        tagged.append(replace(message, content=prefix + content))
    return tagged


def takes_parts(template: str) -> bool:
    """Whether a template in Jinja asks parts of a message for images."""
    return "'image'" in template or '"image"' in template


def content_parts(message: Message) -> list[dict[str, Any]]:
    """The text and the places of images, in order, as transformers' chat templates take them."""
    pieces = message.content.split(IMAGE_PLACE, len(message.images))
    num_placed = len(pieces) - 1
    parts: list[dict[str, Any]] = [{"type": "image"}] * (len(message.images) - num_placed)
    for index, piece in enumerate(pieces):
        if index:
            parts.append({"type": "image"})
        if piece:
            parts.append({"type": "text", "text": piece})
    return parts
