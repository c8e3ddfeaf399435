"""Saying that a conversation has outgrown the context window: never in silence."""

from __future__ import annotations

import click

from olla.client import Client
from olla.errors import ClientError, InvalidName
from olla.names import ModelName
from olla.requests import Timings

AT_THE_PROMPT = "/set parameter num_ctx <number> raises it"
IN_ONE_SHOT = "PARAMETER num_ctx in a Modelfile, or OLLA_CONTEXT_LENGTH for the server, raises it"


def warn_if_cut(client: Client, model: str, timings: Timings, remedy: str) -> bool:
    """Tell on stderr how much of the prompt was left out; False if nothing was."""
    if not timings.num_truncated_tokens:
        return False
    click.echo(
        f"Warning: the conversation no longer fits the context of {_window(client, model)}; the "
        f"oldest {timings.num_truncated_tokens} tokens were left out; {remedy}",
        err=True,
    )
    return True


def _window(client: Client, model: str) -> str:
    """What the daemon says of the running model; it may be gone already."""
    try:
        name = ModelName.parse(model).short
        running = {entry.name: entry.context_length for entry in client.running()}
    except (ClientError, InvalidName):
        running, name = {}, ""
    return f"{running[name]} tokens" if running.get(name) else "the model"
