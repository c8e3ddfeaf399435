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

Render = Callable[[Conversation], Awaitable[str]]
Count = Callable[[str], Awaitable[int]]
Fits = Callable[[str], Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class Fitted:
    """A prompt, and how many tokens longer it would be with all of its conversation."""

    text: str
    num_dropped_tokens: int = 0


async def fit(render: Render, conversation: Conversation, count: Count, room: int) -> Fitted:
    """Render as many of the latest messages as fit into `room` tokens.

    Raises:
        TemplateError: the template cannot render the whole conversation, or its last message.
    """

    async def fits(text: str) -> bool:
        # No token is shorter than a byte, so short texts need not be counted.
        return len(text.encode()) <= room or await count(text) <= room

    whole = await render(conversation)
    if len(conversation.messages) < 2 or await fits(whole):
        return Fitted(whole)
    kept = await _latest(render, conversation, fits)
    return Fitted(kept, max(0, await count(whole) - await count(kept)))


async def _latest(render: Render, conversation: Conversation, fits: Fits) -> str:
    """By bisection, since the prompt grows with each message."""
    num_messages = len(conversation.messages)
    first, last = 1, num_messages - 1
    fitting: str | None = None
    while first < last:
        middle = (first + last) // 2
        candidate = await _render_if_it_fits(render, _cut(conversation, middle), fits)
        if candidate is None:
            first = middle + 1
        else:
            last, fitting = middle, candidate
    if fitting is not None:
        return fitting
    return await render(_cut(conversation, last))


async def _render_if_it_fits(render: Render, conversation: Conversation, fits: Fits) -> str | None:
    """None also where the template refuses: many insist on turns that begin with the user's."""
    try:
        text = await render(conversation)
    except TemplateError:
        return None
    return text if await fits(text) else None


def _cut(conversation: Conversation, first: int) -> Conversation:
    messages = conversation.messages
    kept = tuple(message for message in messages[:first] if message.role == "system")
    return replace(conversation, messages=kept + messages[first:])
