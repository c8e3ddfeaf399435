"""Whole messages are dropped until the prompt fits (the vectors of spec/modelfile.md 10.5)."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from olla.errors import TemplateError
from olla.inference.prompt import Fitted, Prompt, fit
from olla.messages import Message
from olla.renderers.conversation import Conversation

SYSTEM = Message("system", "s s s")
TURNS = tuple(
    Message(role, " ".join([name] * 5))
    for role, name in (("user", "u1"), ("assistant", "a1"), ("user", "u2"))
)


class Joining:
    """Joins the contents with spaces, so a token is a word; counts how often it is asked."""

    add_special_tokens = False

    def __init__(self, refuses: Iterable[str] = ()) -> None:
        self.num_renders = 0
        self._refuses = frozenset(refuses)

    def render(self, conversation: Conversation) -> str:
        self.num_renders += 1
        if conversation.messages[0].role in self._refuses:
            raise TemplateError("turns must begin with the user's")
        return " ".join(message.content for message in conversation.messages)


async def _kept(
    messages: tuple[Message, ...], num_tokens: int, renderer: Joining | None = None
) -> list[str]:
    renderer = renderer or Joining()

    fitted = await _fit(messages, num_tokens, renderer)
    return list(dict.fromkeys(fitted.prompt.text.split()))


async def _fit(messages: tuple[Message, ...], num_tokens: int, renderer: Joining) -> Fitted:
    async def render(conversation: Conversation) -> str:
        return renderer.render(conversation)

    return await fit(render, Conversation(messages), _count, num_tokens)


async def _count(prompt: Prompt) -> int:
    """A word is a token, and so is each byte of an image's file."""
    return len(prompt.text.split()) + sum(map(len, prompt.images))


@pytest.mark.parametrize(
    ("messages", "num_tokens", "kept"),
    [
        (TURNS, 64, ["u1", "a1", "u2"]),
        (TURNS, 15, ["u1", "a1", "u2"]),
        (TURNS, 14, ["a1", "u2"]),
        (TURNS, 1, ["u2"]),
        ((SYSTEM, *TURNS), 10, ["s", "u2"]),
        ((SYSTEM, *TURNS), 13, ["s", "a1", "u2"]),
        ((SYSTEM, *TURNS), 1, ["s", "u2"]),
        ((*TURNS, SYSTEM), 3, ["s"]),
        (TURNS[:1], 1, ["u1"]),
    ],
)
async def test_the_oldest_messages_are_dropped(
    messages: tuple[Message, ...], num_tokens: int, kept: list[str]
) -> None:
    assert await _kept(messages, num_tokens) == kept


@pytest.mark.parametrize("num_tokens", range(1, 60))
async def test_as_many_messages_stay_as_fit(num_tokens: int) -> None:
    turns = tuple(Message("user", f"m{index} " * (index + 1)) for index in range(10))
    sizes = range(1, 11)
    expected = next(
        (first for first in range(10) if sum(sizes[first:]) <= num_tokens), len(turns) - 1
    )

    assert await _kept(turns, num_tokens) == [f"m{index}" for index in range(expected, 10)]


async def test_long_conversations_take_few_renderings() -> None:
    renderer = Joining()
    turns = tuple(Message("user", f"m{index}") for index in range(1000))

    await _kept(turns, 100, renderer)

    assert renderer.num_renders <= 12


async def test_a_cut_that_the_template_refuses_is_passed_over() -> None:
    turns = tuple(
        Message("user" if index % 2 == 0 else "assistant", f"m{index}") for index in range(9)
    )

    kept = await _kept(turns, 5, Joining(refuses=["assistant"]))

    assert kept[-1] == "m8"
    assert int(kept[0][1:]) % 2 == 0
    assert len(kept) <= 5


async def test_a_conversation_that_the_template_refuses_whole_is_an_error() -> None:
    with pytest.raises(TemplateError):
        await _kept((TURNS[1], TURNS[2]), 1, Joining(refuses=["assistant"]))


@pytest.mark.parametrize(
    ("messages", "num_tokens", "num_dropped"),
    [(TURNS, 64, 0), (TURNS, 15, 0), (TURNS, 14, 5), (TURNS, 1, 10), ((SYSTEM, *TURNS), 13, 5)],
)
async def test_the_tokens_that_were_left_out_are_counted(
    messages: tuple[Message, ...], num_tokens: int, num_dropped: int
) -> None:
    fitted = await _fit(messages, num_tokens, Joining())

    assert fitted.num_dropped_tokens == num_dropped


SEEN = (
    Message("user", "u1", images=(b"x" * 700,)),
    Message("assistant", "a1"),
    Message("user", "u2", images=(b"y" * 50, b"z" * 50)),
)


@pytest.mark.parametrize(
    ("messages", "num_tokens", "kept", "num_dropped"),
    [
        (SEEN, 803, SEEN, 0),
        (SEEN, 802, SEEN[1:], 701),
        (SEEN, 101, SEEN[2:], 702),
        (SEEN, 100, SEEN[2:], 702),
        (SEEN[:1], 5, SEEN[:1], 0),
        ((*SEEN[:2], Message("user", "u3")), 700, (SEEN[1], Message("user", "u3")), 701),
    ],
)
async def test_images_count_as_they_are_and_go_with_their_messages(
    messages: tuple[Message, ...], num_tokens: int, kept: tuple[Message, ...], num_dropped: int
) -> None:
    fitted = await _fit(messages, num_tokens, Joining())

    assert fitted.prompt.text == " ".join(message.content for message in kept)
    assert fitted.prompt.images == tuple(image for message in kept for image in message.images)
    assert fitted.num_dropped_tokens == num_dropped
