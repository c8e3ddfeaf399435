"""Finding the daemon, and starting it in the background when nothing answers.

Only a plain loopback address is ever started. A lock keeps two commands that come at once from
starting two daemons; the daemon outlives the command and its terminal.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from olla.client import Client
from olla.errors import ClientError, ServerUnreachable
from olla.settings import Settings

START_TIMEOUT_S = 15.0
POLL_S = 0.05
_TAIL_LINES = 10


def connect(settings: Settings) -> Client:
    """The client of a daemon that answers.

    Raises:
        ServerUnreachable: nothing answers, and none may be started there.
        ClientError: one was started, and it does not answer.
    """
    client = Client(settings.address, settings.api_key)
    if client.is_reachable():
        return client
    if not (settings.autostart and _may_start(settings)):
        raise ServerUnreachable("could not connect to olla server, run 'olla serve' to start it")
    log = settings.home / "logs" / "serve.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with _start_lock(settings.home):
        if not client.is_reachable():  # another command may have started it meanwhile
            _start(settings, client, log)
    return client


def _may_start(settings: Settings) -> bool:
    """A wildcard address is dialled on loopback, but serving it would open it to the network."""
    address = settings.address
    is_plain = address.scheme == "http" and not address.path
    return is_plain and address.is_loopback and address.host == address.connect_host


@contextmanager
def _start_lock(home: Path) -> Iterator[None]:
    with (home / "logs" / "start.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _start(settings: Settings, client: Client, log: Path) -> None:
    click.echo(f"olla is not running: starting it in the background (log: {log})", err=True)
    log_start = log.stat().st_size if log.exists() else 0
    with log.open("ab") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", "olla", "serve"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=settings.home,  # the caller's folder may be removed while the daemon runs
            env=_environment(settings),
            start_new_session=True,
        )
    deadline = time.monotonic() + START_TIMEOUT_S
    while not _answers(client):
        if child.poll() is not None:
            raise ClientError(f"olla serve could not start:\n{_tail(log, log_start)}")
        if time.monotonic() > deadline:
            raise ClientError(
                f"olla serve does not answer after {START_TIMEOUT_S:.0f} seconds, see {log}"
            )
        time.sleep(POLL_S)
    child.returncode = 0  # it is meant to outlive us: nothing is left to wait for


def _answers(client: Client) -> bool:
    try:
        return client.is_reachable()
    except ClientError:  # it listens already, and is not ready yet
        return False


def _environment(settings: Settings) -> dict[str, str]:
    """Ours, with the folders made absolute, since the daemon starts in another one."""
    folders = {"OLLA_HOME": str(settings.home), "OLLA_MODELS": str(settings.models)}
    return {**os.environ, **folders}  # noqa: TID251 - inherited by the daemon, not read


def _tail(log: Path, start: int) -> str:
    with log.open("rb") as file:
        file.seek(start)
        lines = file.read().decode(errors="replace").splitlines()
    return "\n".join(lines[-_TAIL_LINES:]) or "it left nothing in its log"
