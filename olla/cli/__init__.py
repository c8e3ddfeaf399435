"""The command line: the group of commands, and the one place where errors become exit codes.

Imports click and the settings; each command's module is imported when it runs, so that
`olla --help` stays quick. Results go to stdout, everything else to stderr.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from olla import __version__
from olla.cli.cobra import CommandPlace, Group, error_text
from olla.errors import ClientError, OllaError
from olla.settings import Settings

COMMANDS = {
    "serve": CommandPlace("olla.cli.serve:serve", "Start the server"),
    "create": CommandPlace("olla.cli.create:create", "Create a model"),
    "show": CommandPlace("olla.cli.show:show", "Show what a model is made of"),
    "run": CommandPlace("olla.cli.run:run", "Run a model"),
    "stop": CommandPlace("olla.cli.models:stop", "Take a running model out of memory"),
    "pull": CommandPlace("olla.cli.transfers:pull", "Download a model"),
    "push": CommandPlace("olla.cli.transfers:push", "Upload a model"),
    "list": CommandPlace("olla.cli.models:list_models", "List the models"),
    "ps": CommandPlace("olla.cli.models:ps", "List the running models"),
    "bench": CommandPlace("olla.cli.bench:bench", "Measure how fast a model answers"),
    "export": CommandPlace("olla.cli.export:export", "Write a model to files"),
    "cp": CommandPlace("olla.cli.models:cp", "Copy a model"),
    "rm": CommandPlace("olla.cli.models:rm", "Remove models"),
    "key": CommandPlace("olla.cli.keys:key", "Make, list and revoke the keys that let clients in"),
    "du": CommandPlace("olla.cli.store:du", "Show what the models take of the disk"),
    "verify": CommandPlace("olla.cli.store:verify", "Check that the stored models are whole"),
    "gc": CommandPlace("olla.cli.store:gc", "Remove files that no model needs"),
    "import": CommandPlace(
        "olla.cli.archive:import_file", "Read a model from a file that olla export wrote"
    ),
    "doctor": CommandPlace("olla.cli.doctor:doctor", "Check what olla needs"),
    "completion": CommandPlace(
        "olla.cli.completion:completion",
        "Write the script that completes olla's commands in a shell",
    ),
    "signin": CommandPlace("olla.cli.account:signin", "Say that there is no cloud to sign in to"),
    "signout": CommandPlace(
        "olla.cli.account:signout", "Say that there is no cloud to sign out of"
    ),
    "shutdown": CommandPlace("olla.cli.serve:shutdown", "Stop the server"),
    "help": CommandPlace("olla.cli.reference:help_command", "Explain a command"),
}
ALIASES = {"ls": "list", "start": "serve"}


@click.group(cls=Group, places=COMMANDS, aliases=ALIASES, invoke_without_command=True)
@click.option("-v", "--version", is_flag=True, help="Show the version and leave.")
@click.pass_context
def cli(ctx: click.Context, version: bool) -> None:
    """Run language models on this machine."""
    ctx.obj = Settings.from_env(os.environ)  # noqa: TID251 - handed to settings here, and only here
    if version:
        _show_version(ctx.obj)
        ctx.exit()
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main(args: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code. No error leaves a traceback."""
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        return cli.main(args=args, prog_name="olla", standalone_mode=False) or 0
    except click.ClickException as error:
        return _fail(error_text(error))
    except (click.Abort, KeyboardInterrupt):
        return 130  # as a shell reports a program that Ctrl-C ended
    except BrokenPipeError:
        return _leave_closed_pipe()
    except (OllaError, OSError) as error:
        return _fail(_reason(error))
    except Exception as error:  # noqa: BLE001 - a bug in a command is one line too
        return _fail(f"{type(error).__name__}: {error}")


def _open_closed_streams() -> None:
    """Whoever started us may have closed a standard stream, for which Python has None then."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = Path(os.devnull).open(mode, encoding="utf-8")  # noqa: SIM115 - stays open
            setattr(sys, name, stream)


def _show_version(settings: Settings) -> None:
    from olla.client import Client  # noqa: PLC0415 - `olla --help` does without it

    try:
        versions = Client(settings.address, settings.api_key).versions()
        server = versions.olla or versions.api
    except ClientError:
        click.echo("Warning: could not connect to a running olla instance")
        server = ""
    if server:
        click.echo(f"olla version is {server}")
    if server != __version__:
        click.echo(f"Warning: client version is {__version__}")


def _fail(text: str) -> int:
    click.echo(f"Error: {text}", err=True)
    return 1


def _reason(error: OllaError | OSError) -> str:
    """Python would put a number before the text of an OSError, and the path behind it."""
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def _leave_closed_pipe() -> int:
    """Whoever read our output is gone; Python must not complain when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1
