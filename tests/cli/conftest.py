"""Fixtures of the command line's tests: a scripted daemon and a home of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.fake_daemon import FakeDaemon, running_daemon

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
def olla(environment: dict[str, str], tmp_path: Path) -> Olla:
    """Run one command line to its end, in an empty folder, without a terminal."""

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
