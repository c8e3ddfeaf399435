"""Renderer: messages -> prompt text; and which one a template gets.

Knows nothing about runners or token counts. Templates are written in two languages: Jinja, which
models carry in their own files, and Go's, which Ollama's TEMPLATE layers are written in. Which of
its templates a model uses is the registry's to say (`Model.prompt_template`); the request's own
wins over it.
"""

from __future__ import annotations

from typing import Protocol

from olla.registry.model import is_go_template
from olla.renderers.conversation import Conversation
from olla.renderers.go import GoTemplate


class Renderer(Protocol):
    """`add_special_tokens`: whether the tokenizer adds its own, or the text has them already."""

    @property
    def add_special_tokens(self) -> bool: ...

    def render(self, conversation: Conversation) -> str:
        """Write the prompt; may block. Raises TemplateError."""
        ...


def choose(template: str, override: str = "") -> Renderer:
    """The renderer for a model with this template, or for the one that a request brings.

    Raises:
        TemplateError: the template does not parse.
    """
    text = override or template
    if is_go_template(text):
        return GoTemplate(text)
    from olla.renderers.jinja import JinjaTemplate  # noqa: PLC0415 - jinja2

    return JinjaTemplate(text)


def check_template(text: str) -> None:
    """Find out whether a TEMPLATE can be used, before it is stored.

    Raises:
        TemplateError: it cannot; the text says why.
    """
    choose(text)
