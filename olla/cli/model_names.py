"""The names of the stored models, where a shell completes them."""

from __future__ import annotations

import os

import click

from olla.errors import OllaError
from olla.settings import Settings


def complete_models(_ctx: click.Context, _param: click.Parameter, begun: str) -> list[str]:
    """Silent about everything that goes wrong: the person is in the middle of a line."""
    from olla.client import Client  # noqa: PLC0415 - only when a shell asks

    try:
        # A shell asks without the callback of the group, which reads the settings otherwise.
        settings = Settings.from_env(os.environ)  # noqa: TID251
        models = Client(settings.address, settings.api_key).list()
    except OllaError:
        return []
    return [model.name for model in models if model.name.startswith(begun)]
