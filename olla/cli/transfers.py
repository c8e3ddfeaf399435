"""`olla pull` and `olla push`."""

from __future__ import annotations

import re
from collections.abc import Sequence

import click

from olla.cli.cobra import between, command, exactly
from olla.cli.daemon import connect
from olla.cli.model_names import complete_models
from olla.cli.terminal import progress_bars
from olla.cli.text import format_columns, format_size
from olla.client import Client
from olla.errors import ApiError, InvalidName
from olla.names import DEFAULT_HOST, ModelName
from olla.requests import Progress, TransferOptions
from olla.settings import Settings

_RATE = re.compile(r"(\d+(?:\.\d+)?)([KMG]?)(?:B|B/s)?", re.ASCII | re.IGNORECASE)
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}
_INSECURE = click.option("--insecure", is_flag=True, help="Use plain HTTP.")


class RateType(click.ParamType[int]):
    """Bytes a second, such as `500K`, `10M` or `1.5G`, in the decimal units of the bars."""

    name = "rate"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        match = _RATE.fullmatch(str(value))
        rate = int(float(match[1]) * _UNITS[match[2].upper()]) if match else 0
        if not rate:
            self.fail(f'{value!r} is no rate: write bytes a second, such as "500K" or "10M"')
        return rate


_LIMIT_RATE = click.option(
    "--limit-rate",
    metavar="RATE",
    type=RateType(),
    default=None,
    help="At most so many bytes a second, such as 500K or 10M.",
)


@command("pull", exactly(1))
@click.argument("model", metavar="MODEL", required=False, shell_complete=complete_models)
@_INSECURE
@_LIMIT_RATE
@click.option("--dry-run", is_flag=True, help="Only say what would be transferred.")
@click.pass_obj
def pull(
    settings: Settings, model: str, insecure: bool, limit_rate: int | None, dry_run: bool
) -> None:
    """Download a model.

    Only what is not here already is transferred; after Ctrl-C, the next pull goes on.
    """
    options = TransferOptions(insecure, limit_rate or 0, dry_run)
    client = connect(settings)
    if dry_run:
        show_plan([step for step in client.pull(model, options) if step.total_bytes])
    else:
        pull_with_bars(client, model, options)


@command("push", between(1, 2))
@click.argument("model", metavar="MODEL", required=False, shell_complete=complete_models)
@click.argument("destination", metavar="[DESTINATION]", required=False, default="")
@_INSECURE
@_LIMIT_RATE
@click.option("--private", is_flag=True, help="Make a new repository on a hub a private one.")
@click.pass_obj
def push(
    settings: Settings,
    model: str,
    destination: str,
    insecure: bool,
    limit_rate: int | None,
    private: bool,
) -> None:
    """Upload a model.

    It goes where DESTINATION says, or its own name: registry.example.com/me/model:tag is a
    registry, hf.co/me/model a repository on Hugging Face. Only what is not there is sent.
    """
    client = connect(settings)
    options = TransferOptions(insecure, limit_rate or 0, private=private)
    target = destination or model
    try:
        with progress_bars() as show:
            for progress in client.push(model, options, destination):
                show(progress)
    except ApiError as error:
        raise _who_may_push(target, settings, error) from error
    click.echo(f"\nYou can find your model at:\n\n\t{place_of(target)}")


def pull_with_bars(client: Client, model: str, options: TransferOptions) -> None:
    with progress_bars() as show:
        for progress in client.pull(model, options):
            show(progress)


def show_plan(blobs: Sequence[Progress]) -> None:
    """What a pull would bring, as a table and a sentence."""
    rows = [(_what(blob), format_size(blob.total_bytes), _state(blob)) for blob in blobs]
    for line in format_columns([("BLOB", "SIZE", "STATE"), *rows]):
        click.echo(line.rstrip())
    here = sum(blob.completed_bytes for blob in blobs)
    missing = sum(blob.total_bytes for blob in blobs) - here
    click.echo(f"\n{format_size(missing)} to pull, {format_size(here)} here already")


def place_of(model: str) -> str:
    """Where people find a pushed model."""
    name = ModelName.parse(model)
    if name.host.lower() == DEFAULT_HOST:
        return f"https://ollama.com/{name.short.removesuffix(':latest')}"
    if name.host.lower() in {"hf.co", "huggingface.co"}:
        return f"https://huggingface.co/{name.namespace}/{name.model}"
    return name.full


def _what(blob: Progress) -> str:
    return blob.status.rpartition(" ")[2]


def _state(blob: Progress) -> str:
    if blob.completed_bytes == blob.total_bytes:
        return "here"
    return f"{format_size(blob.completed_bytes)} here" if blob.completed_bytes else "to pull"


def _who_may_push(model: str, settings: Settings, error: ApiError) -> ApiError:
    text = str(error)
    if "access denied" not in text and "unauthorized" not in text:
        return error
    try:
        host = ModelName.parse(model).host
    except InvalidName:
        return error
    if host.lower() == DEFAULT_HOST:
        text = (
            "you are not authorized to push to this namespace, create the model under a "
            "namespace you own"
        )
    else:
        text = f"{host} wants a login, which belongs in {settings.home / 'auth.json'}: {text}"
    return ApiError(text, error.status)
