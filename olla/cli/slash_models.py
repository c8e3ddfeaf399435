"""The commands of the prompt about models: /list, /load and /save."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import click

from olla.cli.conversation import Conversation
from olla.cli.loading import load_status
from olla.cli.models import list_lines
from olla.cli.terminal import waiting
from olla.client.replies import ReplySettings, ShownModel
from olla.errors import ApiError, InvalidName
from olla.messages import Message
from olla.names import ModelName
from olla.requests import CreateRequest


def list_stored(conversation: Conversation, args: list[str], _entry: str) -> None:
    for line in list_lines(conversation.client, args[0] if args else ""):
        click.echo(line)


def load(conversation: Conversation, args: list[str], _entry: str) -> None:
    """Another model, and a new conversation. Whatever goes wrong, the old ones stay."""
    if len(args) != 1:
        click.echo("Usage:\n  /load <modelname>")
        return
    name, client = args[0], conversation.client
    click.echo(f"Loading model '{name}'")
    try:
        shown = client.show(name)
        settings = _settings_of(conversation.settings, name, shown)
        with waiting(load_status(client, name)):
            client.load(settings)
    except ApiError as error:
        if error.status != 404:
            raise
        click.echo(f"Couldn't find model '{name}'")
        return
    conversation.settings = settings
    conversation.sees, conversation.stored = shown.sees, shown.messages
    conversation.clear()
    show_stored(shown.messages)


def save(conversation: Conversation, args: list[str], _entry: str) -> None:
    """The model as it is used here, with what was said."""
    if len(args) != 1:
        click.echo("Usage:\n  /save <modelname>")
        return
    name = args[0]
    try:
        ModelName.parse(name)
    except InvalidName:
        click.echo(f"error: The model name '{name}' is invalid")
        return
    with waiting():
        for _ in conversation.client.create(_request(conversation, name)):
            pass
    click.echo(f"Created new model '{name}'")


def show_stored(messages: Iterable[Message]) -> None:
    """What a model begins with, as if it had been said here."""
    for message in messages:
        is_question = message.role == "user"
        click.echo(f">>> {message.content}" if is_question else f"{message.content}\n")


def _settings_of(settings: ReplySettings, name: str, shown: ShownModel) -> ReplySettings:
    """What was set stays, but for thinking that the new model cannot do."""
    can_think = "thinking" in shown.capabilities
    think = (True if settings.think is None else settings.think) if can_think else None
    return replace(settings, model=name, think=think)


def _request(conversation: Conversation, name: str) -> CreateRequest:
    """The session's system message becomes the model's own, and is not also said in it."""
    system = Message("system", conversation.system)
    said = (*conversation.stored, *conversation.messages)
    return CreateRequest(
        model=name,
        base=conversation.settings.model,
        system=conversation.system,
        parameters=conversation.settings.options,
        messages=tuple(message for message in said if message != system),
    )
