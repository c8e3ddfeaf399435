"""`olla pull`."""

from __future__ import annotations

import click

from olla.cli.cobra import command, exactly
from olla.cli.daemon import connect
from olla.cli.terminal import progress_bars
from olla.client import Client
from olla.settings import Settings


@command("pull", exactly(1))
@click.argument("model", metavar="MODEL", required=False)
@click.option("--insecure", is_flag=True, help="Allow a registry without TLS.")
@click.pass_obj
def pull(settings: Settings, model: str, insecure: bool) -> None:
    """Download a model.

    Only what is not here already is transferred.
    """
    pull_with_bars(connect(settings), model, insecure=insecure)


def pull_with_bars(client: Client, model: str, *, insecure: bool) -> None:
    with progress_bars() as show:
        for progress in client.pull(model, insecure=insecure):
            show(progress)
