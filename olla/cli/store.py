"""The commands about the store as a whole: du, verify, gc."""

from __future__ import annotations

from collections.abc import Sequence

import click

from olla.cli.cobra import at_least, command, exactly
from olla.cli.daemon import connect
from olla.cli.model_names import complete_models
from olla.cli.terminal import progress_bars, waiting
from olla.cli.text import format_columns, format_size
from olla.requests import SharedBlob
from olla.settings import Settings


@command("du", exactly(0))
@click.pass_obj
def du(settings: Settings) -> None:
    """Show what the models take of the disk.

    FREED is what removing that model alone gives back: what it shares with others stays.
    """
    usage = connect(settings).usage()
    models = sorted(usage.models, key=lambda model: -model.size_bytes)
    rows = [(m.name, format_size(m.size_bytes), format_size(m.freed_bytes)) for m in models]
    _show(("NAME", "SIZE", "FREED"), rows)
    if usage.shared:
        click.echo()
        _show(("SHARED BLOB", "SIZE", "MODELS"), [_shared_row(blob) for blob in usage.shared])
    click.echo(f"\n{format_size(usage.total_bytes)} in all, each blob counted once")
    if usage.unused_bytes:
        click.echo(f"{format_size(usage.unused_bytes)} that no model needs (olla gc)")


@command("verify", at_least(0))
@click.argument("models", nargs=-1, metavar="[MODEL...]", shell_complete=complete_models)
@click.pass_obj
def verify(settings: Settings, models: tuple[str, ...]) -> None:
    """Check that the stored models are whole.

    Hashes every blob of these models, or of all, and names the models that are broken.
    """
    client = connect(settings)
    with progress_bars() as show:
        for progress in client.verify(models):
            show(progress)


@command("gc", exactly(0))
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@click.option("--all", "everything", is_flag=True, help="Also what is less than an hour old.")
@click.pass_obj
def gc(settings: Settings, dry_run: bool, everything: bool) -> None:
    """Remove files that no model needs.

    Blobs of removed models and of broken transfers. What is less than an hour old stays, since
    somebody may be about to use it; what is in use stays in any case.
    """
    client = connect(settings)
    with waiting():
        collected = client.collect(dry_run=dry_run, everything=everything)
    if collected.files:
        _show(("FILE", "SIZE"), [(name, format_size(size)) for name, size in collected.files])
        click.echo()
    verb = "would be freed" if dry_run else "freed"
    click.echo(f"{format_size(collected.freed_bytes)} {verb}")


def _shared_row(blob: SharedBlob) -> tuple[str, ...]:
    digest = blob.digest.removeprefix("sha256:")[:12]
    return (digest, format_size(blob.size_bytes), ", ".join(blob.models))


def _show(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    for line in format_columns([header, *rows]):
        click.echo(line.rstrip())
