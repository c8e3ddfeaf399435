"""`olla signin` and `olla signout`, which say that there is no cloud."""

from __future__ import annotations

import click

from olla.cli.cobra import command, exactly

_NO_CLOUD = "olla has no cloud and no accounts: models run on your own machines"


@command("signin", exactly(0), ())
def signin() -> None:
    """Say that there is no cloud to sign in to."""
    raise click.ClickException(f"{_NO_CLOUD}; `olla key` makes keys for a server of yours")


@command("signout", exactly(0), ())
def signout() -> None:
    """Say that there is no cloud to sign out of."""
    click.echo(_NO_CLOUD)
