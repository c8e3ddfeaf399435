"""The commands about stored and running models that answer at once: list, ps, stop, cp, rm."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import click

from olla.cli.cobra import at_least, at_most, command, exactly
from olla.cli.daemon import connect
from olla.cli.model_names import complete_models
from olla.cli.terminal import echo_table, waiting
from olla.cli.text import format_columns, format_size, format_time
from olla.client import Client
from olla.client.replies import ListedModel, QueuedRequest, RunningModel
from olla.errors import ApiError
from olla.settings import Settings


@command("list", at_most(1))
@click.argument("prefix", metavar="[PREFIX]", required=False)
@click.pass_obj
def list_models(settings: Settings, prefix: str | None) -> None:
    """List the models.

    With PREFIX, only those whose name starts with it. Also: olla ls.
    """
    for line in list_lines(connect(settings), prefix or ""):
        click.echo(line)


@command("ps", at_most(1))
@click.argument("prefix", metavar="[PREFIX]", required=False)
@click.pass_obj
def ps(settings: Settings, prefix: str | None) -> None:
    """List the running models.

    With PREFIX, only those whose name starts with it. Adapters stand below the base they share.
    Requests that wait, and what for, follow.
    """
    client = connect(settings)
    models, queue = client.activity()
    rows = _ps_rows([model for model in models if model.name.startswith(prefix or "")])
    echo_table(("NAME", "ID", "SIZE", "PROCESSOR", "CONTEXT", "UNTIL"), rows)
    waiting = [_queue_row(entry) for entry in queue if entry.model.startswith(prefix or "")]
    if waiting:
        click.echo()
        echo_table(("WAITING FOR", "CLIENT", "STATE"), waiting)


@command("stop", exactly(1))
@click.argument("model", metavar="MODEL", required=False, shell_complete=complete_models)
@click.pass_obj
def stop(settings: Settings, model: str) -> None:
    """Take a running model out of memory."""
    client = connect(settings)
    try:
        with waiting():
            client.unload(model)
    except ApiError as error:
        if error.status != 404:
            raise
        raise ApiError(f'couldn\'t find model "{model}" to stop', error.status) from error


@command("cp", exactly(2))
@click.argument("source", metavar="SOURCE", required=False, shell_complete=complete_models)
@click.argument("destination", metavar="DESTINATION", required=False)
@click.pass_obj
def cp(settings: Settings, source: str, destination: str) -> None:
    """Copy a model."""
    connect(settings).copy(source, destination)
    click.echo(f"copied '{source}' to '{destination}'")


@command("rm", at_least(1))
@click.argument("models", nargs=-1, metavar="MODEL...", shell_complete=complete_models)
@click.pass_obj
def rm(settings: Settings, models: tuple[str, ...]) -> None:
    """Remove models.

    Stops at the first that cannot be removed.
    """
    client = connect(settings)
    for model in models:
        client.delete(model)  # the daemon takes it out of memory, unless it refuses
        click.echo(f"deleted '{model}'")


def list_lines(client: Client, prefix: str) -> list[str]:
    """The table of the models whose names start with `prefix`."""
    wanted = prefix.lower()
    rows = [_list_row(model) for model in client.list() if model.name.lower().startswith(wanted)]
    return format_columns([("NAME", "ID", "SIZE", "MODIFIED"), *rows])


def _list_row(model: ListedModel) -> tuple[str, ...]:
    size = "-" if model.is_remote else format_size(model.size_bytes)
    modified = format_time(model.modified_at, datetime.now(UTC))
    return (model.name, model.digest[:12], size, modified)


def _ps_rows(models: Sequence[RunningModel]) -> list[tuple[str, ...]]:
    """A base once, with its adapters below it, also where nobody uses the base itself."""
    rows: list[tuple[str, ...]] = []
    for base in dict.fromkeys(model.adapter_of or model.name for model in models):
        adapters = [model for model in models if model.adapter_of == base]
        own = [model for model in models if model.name == base and not model.adapter_of]
        rows += [_ps_row(model) for model in own]
        if not own:
            _, _, *memory, _, _ = _ps_row(adapters[0])
            rows.append((base, "", *memory, "", ""))
        for model in adapters:
            name, digest, _, _, context, until = _ps_row(model)
            rows.append((f"+ {name}", digest, "", "", context, until))
    return rows


def _ps_row(model: RunningModel) -> tuple[str, ...]:
    now = datetime.now(UTC)
    until = "Stopping..." if model.expires_at < now else format_time(model.expires_at, now)
    return (
        model.name,
        model.digest[:12],
        format_size(model.size_bytes),
        format_processor(model.size_bytes, model.vram_bytes),
        str(model.context_length),
        until,
    )


def _queue_row(entry: QueuedRequest) -> tuple[str, ...]:
    place = f", place {entry.position}" if entry.position else ""
    return (entry.model, entry.client, f"{entry.state}{place}")


def format_processor(size_bytes: int, vram_bytes: int) -> str:
    """Where the model is: `100% CPU`, `100% GPU`, or `48%/52% CPU/GPU`."""
    if vram_bytes == 0:
        return "100% CPU"
    if vram_bytes > size_bytes:
        return "Unknown"
    if vram_bytes == size_bytes:
        return "100% GPU"
    cpu = round((size_bytes - vram_bytes) / size_bytes * 100)
    return f"{cpu}%/{100 - cpu}% CPU/GPU"
