"""The prompt of a conversation: as many of its messages as fit the context window.

Knows nothing about models, loading or replies. Whole messages are dropped, the oldest first; the
system's and the last one always stay, and a prompt that is still too long is the engine's to
shorten or refuse (spec/modelfile.md section 7).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from olla.errors import TemplateError
from olla.renderers.conversation import Conversation


@dataclass(frozen=True, slots=True)
class Prompt:
    """A text, and the images that it has places for."""

    text: str
    images: tuple[bytes, ...] = ()


Render = Callable[[Conversation], Awaitable[str]]
Count = Callable[[Prompt], Awaitable[int]]
Fits = Callable[[Prompt], Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class Fitted:
    """A prompt, and how many tokens longer it would be with all of its conversation."""

    prompt: Prompt
    num_dropped_tokens: int = 0


async def fit(render: Render, conversation: Conversation, count: Count, room: int) -> Fitted:
    """Render as many of the latest messages as fit into `room` tokens.

    Raises:
        TemplateError: the template cannot render the whole conversation, or its last message.
        BadInput: an image of the conversation cannot be read.
    """

    async def fits(prompt: Prompt) -> bool:
        # No token is shorter than a byte, so short texts need not be counted.
        is_short = not prompt.images and len(prompt.text.encode()) <= room
        return is_short or await count(prompt) <= room

    whole = await prompt_of(render, conversation)
    if len(conversation.messages) < 2 or await fits(whole):
        return Fitted(whole)
    kept = await _latest(render, conversation, fits)
    return Fitted(kept, max(0, await count(whole) - await count(kept)))


async def prompt_of(render: Render, conversation: Conversation) -> Prompt:
    """The whole conversation as a prompt; raises as `fit`."""
    text = await render(conversation)
    return Prompt(text, tuple(image for turn in conversation.messages for image in turn.images))


async def _latest(render: Render, conversation: Conversation, fits: Fits) -> Prompt:
    """By bisection, since the prompt grows with each message."""
    num_messages = len(conversation.messages)
    first, last = 1, num_messages - 1
    fitting: Prompt | None = None
    while first < last:
        middle = (first + last) // 2
        candidate = await _render_if_it_fits(render, _cut(conversation, middle), fits)
        if candidate is None:
            first = middle + 1
        else:
            last, fitting = middle, candidate
    if fitting is not None:
        return fitting
    return await prompt_of(render, _cut(conversation, last))


async def _render_if_it_fits(
    render: Render, conversation: Conversation, fits: Fits
) -> Prompt | None:
    """None also where the template refuses: many insist on turns that begin with the user's."""
    try:
        prompt = await prompt_of(render, conversation)
    except TemplateError:
        return None
    return prompt if await fits(prompt) else None


def _cut(conversation: Conversation, first: int) -> Conversation:
    messages = conversation.messages
    kept = tuple(message for message in messages[:first] if message.role == "system")
    return replace(conversation, messages=kept + messages[first:])
