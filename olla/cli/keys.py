"""`olla key`: the keys that let clients in, in a file that the daemon reads by itself."""

from __future__ import annotations

import click

from olla.cli.cobra import command, exactly
from olla.cli.terminal import echo_table
from olla.keys import KeyFile, Scope
from olla.settings import Settings

_ENVIRONMENT = ("OLLA_HOME",)
_SCOPES = ", ".join(Scope)


@click.group("key", context_settings={"help_option_names": ["-h", "--help"]})
def key() -> None:
    """Make, list and revoke the keys that let clients in.

    As soon as there is one, every request needs a key. A running server notices by itself.
    """


@command("create", exactly(1), _ENVIRONMENT)
@click.argument("name", metavar="NAME", required=False)
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    metavar="SCOPE",
    default=(Scope.INFER.value,),
    help="infer (the default) or manage; may be given twice.",
)
@click.pass_obj
def create(settings: Settings, name: str, scopes: tuple[str, ...]) -> None:
    """Make a key and print it, this once.

    With the scope infer it may use models, with manage also change which there are. Clients send
    it as `Authorization: Bearer KEY` or `x-api-key: KEY`, olla's own commands from OLLA_API_KEY.
    """
    token = KeyFile(settings.keys_path).create(name, _read_scopes(scopes))
    click.echo("Keep it safe: it cannot be shown again.", err=True)
    click.echo(token)


@command("list", exactly(0), _ENVIRONMENT)
@click.pass_obj
def list_keys(settings: Settings) -> None:
    """List the keys, not what they are."""
    rows = [
        (key.name, ",".join(key.scopes), key.created_at)
        for key in KeyFile(settings.keys_path).read()
    ]
    echo_table(("NAME", "SCOPES", "CREATED"), rows)


@command("revoke", exactly(1), _ENVIRONMENT)
@click.argument("name", metavar="NAME", required=False)
@click.pass_obj
def revoke(settings: Settings, name: str) -> None:
    """Let a key be one no longer."""
    KeyFile(settings.keys_path).revoke(name)
    click.echo(f"revoked '{name}'")


def _read_scopes(texts: tuple[str, ...]) -> list[Scope]:
    words = [word.strip() for text in texts for word in text.split(",")]
    unknown = [word for word in words if word not in set(Scope)]
    if unknown:
        raise click.UsageError(f'unknown scope "{unknown[0]}" (must be one of {_SCOPES})')
    return [scope for scope in Scope if scope in words]


for _command in (create, list_keys, revoke):
    key.add_command(_command)
