"""Where images stand in a prompt: in the order of their places, whatever the template knows."""

from __future__ import annotations

import pytest

from olla.messages import Message
from olla.renderers.conversation import Conversation
from olla.renderers.images import content_parts, tag_images
from olla.renderers.jinja import JinjaTemplate

IMAGE = {"type": "image"}
PARTS = (
    "{% for m in messages %}<{{ m.role }}>{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for p in m.content %}{% if p.type == 'image' %}#{% else %}{{ p.text }}{% endif %}"
    "{% endfor %}{% endif %}{% endfor %}"
)
TEXTS = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
TURNS = (
    Message("system", "s"),
    Message("user", "a [img] b", images=(b"1", b"2")),
    Message("assistant", "c [img]"),
    Message("user", "d", images=(b"3",)),
)


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def test_images_are_numbered_through_the_conversation() -> None:
    messages = (
        Message("user", "a [img] b [img]", images=(b"1", b"2", b"3")),
        Message("assistant", "[img]"),
        Message("user", "c", images=(b"4",)),
    )

    contents = [message.content for message in tag_images(messages)]

    assert contents == ["[img-2]a [img-0] b [img-1]", "[img]", "[img-3]c"]


@pytest.mark.parametrize(
    ("content", "num_images", "parts"),
    [
        ("a", 1, [IMAGE, _text("a")]),
        ("", 2, [IMAGE, IMAGE]),
        ("a[img]", 1, [_text("a"), IMAGE]),
        ("[img]a[img]b", 2, [IMAGE, _text("a"), IMAGE, _text("b")]),
        ("a[img]b", 2, [IMAGE, _text("a"), IMAGE, _text("b")]),
        ("a[img]b[img]", 1, [_text("a"), IMAGE, _text("b[img]")]),
    ],
)
def test_parts_of_content_are_in_the_order_of_their_places(
    content: str, num_images: int, parts: list[dict[str, str]]
) -> None:
    assert content_parts(Message("user", content, images=(b"x",) * num_images)) == parts


def test_a_template_that_knows_parts_gets_them_where_there_are_images() -> None:
    prompt = JinjaTemplate(PARTS).render(Conversation(TURNS))

    assert prompt == "<system>s<user>#a # b<assistant>c [img]<user>#d"


def test_for_other_templates_images_are_tags_in_the_text() -> None:
    prompt = JinjaTemplate(TEXTS).render(Conversation(TURNS))

    assert prompt == "<system>s<user>[img-1]a [img-0] b<assistant>c [img]<user>[img-2]d"


def test_a_turn_with_an_image_can_be_continued() -> None:
    turns = (*TURNS, Message("assistant", "so [img] it", images=(b"4",)))

    assert JinjaTemplate(PARTS).render(Conversation(turns)).endswith("<assistant>so # it")
