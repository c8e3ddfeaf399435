"""`olla run`: one reply on stdout, or the prompt when a person is at the terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

import click

from olla.cli.attachments import Attached, attach
from olla.cli.cobra import CLIENT_ENVIRONMENT, at_least, command
from olla.cli.daemon import connect
from olla.cli.loading import load_status
from olla.cli.model_names import complete_models
from olla.cli.reply import View, show_reply
from olla.cli.terminal import waiting
from olla.cli.transfers import pull_with_bars
from olla.cli.window import IN_ONE_SHOT, warn_if_cut
from olla.client import Client
from olla.client.replies import THINK_LEVELS, EmbedSettings, ReplySettings, ShownModel
from olla.durations import parse_duration
from olla.errors import ApiError
from olla.requests import TransferOptions
from olla.settings import Settings

_ENVIRONMENT = (*CLIENT_ENVIRONMENT, "OLLA_NOHISTORY", "OLLA_EDITOR", "NO_COLOR")


@command("run", at_least(1), _ENVIRONMENT, bare={"--think": "true"})
@click.argument("model", metavar="MODEL", required=False, shell_complete=complete_models)
@click.argument("prompt", nargs=-1, metavar="[PROMPT]...")
@click.option("--keepalive", metavar="DURATION", help='How long the model stays loaded ("5m").')
@click.option("--verbose", is_flag=True, help="Show the timings of the reply.")
@click.option("--insecure", is_flag=True, help="Use plain HTTP for a pull.")
@click.option("--nowordwrap", is_flag=True, help="Do not wrap words at the edge of the terminal.")
@click.option("--format", "format_", metavar="FORMAT", help="Form of the reply: json or a schema.")
@click.option(
    "--think", metavar="[=LEVEL]", help="Think first: true, false, low, medium, high, max."
)
@click.option("--hidethinking", is_flag=True, help="Do not show what the model thinks.")
@click.option(
    "--truncate", is_flag=True, default=None, help="Cut a text that is too long to embed."
)
@click.option("--dimensions", type=int, metavar="N", help="How many numbers of a vector to keep.")
@click.pass_obj
def run(
    settings: Settings,
    /,
    model: str,
    prompt: tuple[str, ...],
    keepalive: str | None,
    insecure: bool,
    **flags: Any,
) -> None:
    """Run a model.

    With PROMPT, or with text on stdin, the reply goes to stdout. Without, on a terminal, you
    talk to the model at a prompt. A model that is not here is downloaded first. One that makes
    vectors of texts prints the vector of PROMPT as a line of JSON. One that sees is shown the
    images whose paths (./a.png, /tmp/b.jpg) PROMPT names.
    """
    if keepalive:
        parse_duration(keepalive)
    reply_format, think = _read_format(flags["format_"]), _read_think(flags["think"])
    view = View(
        word_wrap=not flags["nowordwrap"],
        thinking=not flags["hidethinking"],
        verbose=flags["verbose"],
        colour=settings.colour,
    )
    client = connect(settings)
    shown = _show_or_pull(client, model, insecure=insecure)
    if think is None and "thinking" in shown.capabilities:
        think = True
    if _only_embeds(shown):
        embed = EmbedSettings(model, flags["truncate"], flags["dimensions"], keepalive)
        _print_vector(client, embed, _read_prompt(prompt))
        return
    reply = ReplySettings(model, format=reply_format, think=think, keep_alive=keepalive)
    if prompt or not sys.stdin.isatty() or not sys.stdout.isatty():
        _answer(client, reply, _read_prompt(prompt), view, sees=shown.sees)
        return
    from olla.cli.repl import converse  # noqa: PLC0415 - prompt_toolkit is slow to import

    converse(client, reply, shown, view, settings)


def _read_format(text: str | None) -> str | Mapping[str, Any] | None:
    if not text or text == "json":
        return text or None
    try:
        schema = json.loads(text)
    except ValueError as error:
        raise click.UsageError(_bad_format(text)) from error
    if not isinstance(schema, dict):
        raise click.UsageError(_bad_format(text))
    return schema


def _bad_format(text: str) -> str:
    return f'invalid format: "{text}"; expected "json" or a valid JSON Schema object'


def _read_think(text: str | None) -> bool | str | None:
    if text is None or text in THINK_LEVELS:
        return text
    if text not in {"true", "false"}:
        raise click.UsageError(
            f'invalid value for --think: "{text}" (must be true, false, high, medium, low, or max)'
        )
    return text == "true"


def _show_or_pull(client: Client, model: str, *, insecure: bool) -> ShownModel:
    try:
        return client.show(model)
    except ApiError as error:
        if error.status != 404:
            raise
    pull_with_bars(client, model, TransferOptions(insecure=insecure))
    return client.show(model)


def _only_embeds(shown: ShownModel) -> bool:
    return "embedding" in shown.capabilities and "completion" not in shown.capabilities


def _print_vector(client: Client, settings: EmbedSettings, text: str) -> None:
    if not text:
        raise click.UsageError(
            "embedding models require input text. "
            f'Usage: olla run {settings.model} "your text here"'
        )
    with waiting():
        vector = client.embed(settings, text)
    click.echo(json.dumps(vector, separators=(",", ":")))


def _read_prompt(words: tuple[str, ...]) -> str:
    piped = "" if sys.stdin.isatty() else sys.stdin.buffer.read().decode(errors="replace")
    return " ".join([piped, *words] if piped else words)


def _answer(client: Client, reply: ReplySettings, prompt: str, view: View, *, sees: bool) -> None:
    """Ctrl-C ends the reply, and that is a good end."""
    asked = attach(prompt) if sees else Attached(prompt)
    status = load_status(client, reply.model)
    try:
        if asked.text or asked.images:
            chunks = client.generate(reply, asked.text, asked.images)
            shown = show_reply(chunks, view, status)
            warn_if_cut(client, reply.model, shown.timings, IN_ONE_SHOT)
        else:
            with waiting(status):
                client.load(reply)
    except KeyboardInterrupt:
        click.echo()
