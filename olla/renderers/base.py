"""Renderer: messages -> prompt text; and which one a model gets.

Knows nothing about runners or token counts. Templates are written in two languages. Jinja, which
models carry in their own files, is read here. Go's, which Ollama's TEMPLATE layers are written
in, is not, but for the one that says "only the prompt": `{{ .Prompt }}`. So the order is: the
request's template; the model's TEMPLATE, if it is Jinja or that one; the Jinja template in the
model's files; and where there is neither, only the prompt. A TEMPLATE in Go is passed over when
the model's files have a Jinja template (models from Ollama often have both) and refused when not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import groupby
from typing import Protocol

from olla.errors import TemplateError
from olla.messages import Message
from olla.registry.model import is_go_template
from olla.renderers.conversation import Conversation
from olla.renderers.jinja import JinjaTemplate

GO_TEMPLATE_REFUSED = (
    "template error: Go templates are not read yet; write the template in Jinja, "
    "or leave it out to use the model's own chat template"
)

_PLAIN = re.compile(r"\{\{-?\s*\.Prompt\s*-?\}\}")


class Renderer(Protocol):
    """`add_special_tokens`: whether the tokenizer adds its own, or the text has them already."""

    @property
    def add_special_tokens(self) -> bool: ...

    def render(self, conversation: Conversation) -> str:
        """Write the prompt; may block. Raises TemplateError."""
        ...


class PlainPrompt:
    """`{{ .Prompt }}`: what users and the model have said, one after the other.

    Turns of one role that follow each other are joined by a blank line, and the system's are
    left out, since the template has no place for them (spec/modelfile.md sections 5.3 and 5.4).
    """

    add_special_tokens = True

    def render(self, conversation: Conversation) -> str:
        return "".join(_turns(conversation.messages))


def choose(template: str, chat_template: str, override: str = "") -> Renderer:
    """The renderer for a model with this TEMPLATE and this template in its own files.

    Raises:
        TemplateError: the template to use does not parse, or is in a language not read here.
    """
    if override:
        return _read(override)
    if template and not (chat_template and is_go_template(template)):
        return _read(template)
    return _read(chat_template) if chat_template else PlainPrompt()


def check_template(text: str) -> None:
    """Find out whether a TEMPLATE can be used, before it is stored.

    Raises:
        TemplateError: it cannot; the text says why.
    """
    _read(text)


def _read(text: str) -> Renderer:
    if _PLAIN.fullmatch(text):
        return PlainPrompt()
    if is_go_template(text):
        raise TemplateError(GO_TEMPLATE_REFUSED)
    return JinjaTemplate(text)


def _turns(messages: Iterable[Message]) -> Iterable[str]:
    for role, turns in groupby(messages, key=lambda message: message.role):
        if role in {"user", "assistant"}:
            yield "\n\n".join(turn.content for turn in turns)
