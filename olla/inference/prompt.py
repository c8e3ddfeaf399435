"""The prompt of a conversation: as many of its messages as fit the context window.

Knows nothing about models, loading or replies. Whole messages are dropped, the oldest first; the
system's and the last one always stay, and a prompt that is still too long is the engine's to
shorten or refuse (spec/modelfile.md section 7).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

from olla.errors import TemplateError
from olla.renderers.conversation import Conversation

Render = Callable[[Conversation], Awaitable[str]]
Fits = Callable[[str], Awaitable[bool]]


async def fit(render: Render, conversation: Conversation, fits: Fits) -> str:
    """Render as many of the latest messages as fit, by bisection.

    Raises:
        TemplateError: the template cannot render the whole conversation, or its last message.
    """
    text = await render(conversation)
    num_messages = len(conversation.messages)
    if num_messages < 2 or await fits(text):
        return text
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
