"""Starting the real daemon in the background, and ending it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from olla.address import Address
from olla.client import Client
from tests.cli.conftest import Olla

NOT_STARTED = "Error: could not connect to olla server, run 'olla serve' to start it\n"


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def environment(free_port: int, home: Path) -> Iterator[dict[str, str]]:
    """What a command finds when nothing is its server yet. Whatever it started ends here."""
    ours = {name: text for name, text in os.environ.items() if not name.startswith("OLL")}
    ours |= {"OLLA_HOST": f"127.0.0.1:{free_port}", "OLLA_HOME": str(home)}
    yield ours
    client = Client(Address(port=free_port))
    if client.is_reachable():
        client.shutdown()


def starting(home: Path) -> str:
    log = home / "logs" / "serve.log"
    return f"olla is not running: starting it in the background (log: {log})\n"


def test_a_command_starts_the_daemon_and_leaves_it_running_until_shutdown(
    olla: Olla, home: Path, free_port: int
) -> None:
    first, second, last = olla("list"), olla("list"), olla("shutdown")

    assert (first.returncode, first.stderr) == (0, starting(home))
    assert (second.returncode, second.stderr) == (0, "")
    assert first.stdout == second.stdout == "NAME    ID    SIZE    MODIFIED    \n"
    assert "Listening on" in (home / "logs" / "serve.log").read_text()
    assert (last.returncode, last.stdout, last.stderr) == (0, "", "")
    with socket.create_server(("127.0.0.1", free_port)):
        pass


def test_commands_that_come_at_once_start_one_daemon(
    environment: dict[str, str], home: Path
) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "olla", "ps"],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    errors = [process.communicate(timeout=60)[1] for process in processes]

    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sorted(errors) == ["", "", starting(home)]


def test_a_daemon_that_cannot_start_shows_its_log(olla: Olla, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    done = olla("list", OLLA_MODELS=str(tmp_path / "file" / "models"))

    assert done.returncode == 1
    assert "Error: olla serve could not start:\n" in done.stderr
    assert "Not a directory" in done.stderr


@pytest.mark.parametrize("host", ["0.0.0.0:{}", ":{}", "http://127.0.0.1:{}/path"])
def test_an_address_that_is_not_plain_loopback_is_never_started(
    olla: Olla, free_port: int, host: str
) -> None:
    done = olla("list", OLLA_HOST=host.format(free_port))

    assert (done.returncode, done.stderr) == (1, NOT_STARTED)


def test_autostart_can_be_turned_off(olla: Olla) -> None:
    done = olla("list", OLLA_AUTOSTART="0")

    assert (done.returncode, done.stderr) == (1, NOT_STARTED)


def test_a_second_daemon_says_that_the_address_is_taken(olla: Olla, free_port: int) -> None:
    olla("list")

    done = olla("serve")

    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"Error: listen tcp 127.0.0.1:{free_port}: bind: address already in use"
    )
