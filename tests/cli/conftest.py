"""Fixtures of the command line's tests: a scripted daemon and a home of its own."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from olla.cli import main
from tests.cli.fake_daemon import FakeDaemon, running_daemon
from tests.cli.tmux import Terminal

Olla = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def daemon() -> Iterator[FakeDaemon]:
    with running_daemon() as daemon:
        yield daemon


@pytest.fixture
def environment(daemon: FakeDaemon, tmp_path: Path) -> dict[str, str]:
    """What a command finds when the scripted daemon is its server."""
    ours = {name: text for name, text in os.environ.items() if not name.startswith("OLL")}
    return ours | {
        "OLLA_HOST": daemon.address,
        "OLLA_HOME": str(tmp_path / "home"),
        "OLLA_AUTOSTART": "0",
        "PYTHONUTF8": "1",
    }


@pytest.fixture
def olla(
    environment: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Olla:
    """Run one command line in this process, in an empty folder, without a terminal."""
    monkeypatch.chdir(tmp_path)

    def run(
        *args: str, stdin: str = "", **more_environment: str
    ) -> subprocess.CompletedProcess[str]:
        for name, text in (environment | more_environment).items():
            monkeypatch.setenv(name, text)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        code = main(args)
        out, err = capfd.readouterr()
        return subprocess.CompletedProcess(args, code, out, err)

    return run


@pytest.fixture
def olla_process(environment: dict[str, str], tmp_path: Path) -> Olla:
    """The same as a process of its own, which costs a start of Python."""

    def run(
        *args: str, stdin: str = "", **more_environment: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "olla", *args],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            env=environment | more_environment,
            timeout=30,
        )

    return run


@pytest.fixture
def terminal(environment: dict[str, str]) -> Iterator[Terminal]:
    # A socket's path must be short, and pytest's folders are not.
    with tempfile.TemporaryDirectory(prefix="tmux-") as folder:
        terminal = Terminal(Path(folder) / "s", environment)
        yield terminal
        terminal.close()
