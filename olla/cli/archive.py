"""Archives, and `olla import`: a model as one file, for machines without a line."""

from __future__ import annotations

from pathlib import Path

import click

from olla.cli.cobra import between, command
from olla.cli.daemon import connect
from olla.cli.terminal import Show, progress_bars
from olla.client import Client
from olla.client.archive import Archive, StoredBlob, open_archive
from olla.errors import ApiError, BadInput
from olla.requests import Progress
from olla.settings import Settings


def write_archive(client: Client, model: str, path: Path) -> None:
    """Write a model into one file, which replaces what was there when all of it has come."""
    partial = path.with_name(f"{path.name}.part")
    try:
        with progress_bars() as show, partial.open("wb") as target:
            client.export_model(
                model,
                target,
                lambda done, total: show(Progress(f"writing {path.name}", "", total, done)),
            )
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@command("import", between(1, 2))
@click.argument("file", metavar="FILE", required=False)
@click.argument("model", metavar="[MODEL]", required=False)
@click.pass_obj
def import_file(settings: Settings, file: str, model: str | None) -> None:
    """Read a model from a file that olla export wrote.

    Under the name that it had, unless MODEL is another one.
    """
    path = Path(file)
    try:
        with open_archive(path) as archive, progress_bars() as show:
            name = _import(connect(settings), archive, model or archive.name, show)
    except BadInput as error:
        raise BadInput(f"cannot import {path}: {error}") from error
    except ApiError as error:
        raise ApiError(f"cannot import {path}: {error}", error.status) from error
    click.echo(f"imported '{name}'")


def _import(client: Client, archive: Archive, model: str, show: Show) -> str:
    if not model:
        raise BadInput("it does not name its model: give a name behind the file")
    for blob in archive.blobs:
        _upload(client, archive, blob, show)
    show(Progress("writing manifest"))
    name = client.import_model(model, archive.manifest)
    show(Progress("success"))
    return name


def _upload(client: Client, archive: Archive, blob: StoredBlob, show: Show) -> None:
    def report(sent_bytes: int) -> None:
        status = f"copying {blob.digest.removeprefix('sha256:')[:12]}"
        show(Progress(status, blob.digest, blob.size_bytes, sent_bytes))

    if client.has_blob(blob.digest):
        report(blob.size_bytes)
        return
    with archive.open(blob) as file:
        client.send_blob(blob.digest, file, blob.size_bytes, report)
