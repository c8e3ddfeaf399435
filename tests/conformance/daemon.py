"""A real daemon on a free port, in its own process, with a home of its own."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

_LISTENING = re.compile(r"Listening on 127\.0\.0\.1:(\d+)")
_START_S = 20.0
_STOP_S = 15.0
_ANSWER_S = 120.0


class Answer(NamedTuple):
    """A whole reply."""

    status: int
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The text of a reply that is an error and nothing else."""
        ((key, text),) = self.json.items()
        assert key == "error"
        return str(text)


@dataclass
class Daemon:
    process: subprocess.Popen[bytes]
    home: Path
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def models(self) -> Path:
        return self.home / "models"

    def runner_pids(self) -> list[int]:
        """The daemon's children that are runners."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [pid for pid in map(int, children.split()) if "olla.runner" in _command_line(pid)]

    def ask(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> Answer:
        """One request on a connection of its own; a body that is not bytes is sent as JSON."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_ANSWER_S)
        try:
            connection.request(method, path, data, headers or {})
            response = connection.getresponse()
            return Answer(response.status, response.read())
        finally:
            connection.close()

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The real `olla` command against this daemon."""
        return subprocess.run(
            [sys.executable, "-m", "olla", *arguments],
            env={**os.environ, "OLLA_HOST": self.url, "OLLA_HOME": str(self.home)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_ANSWER_S,
            check=False,
        )

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to end; its exit status."""
        self.process.send_signal(number)
        return self.process.wait(timeout=_STOP_S)


@contextmanager
def running_daemon(home: Path, **settings: str) -> Iterator[Daemon]:
    """A daemon that is ready, and that has ended when the block has."""
    home.mkdir(parents=True, exist_ok=True)
    log = home / "daemon.log"
    environment = {
        **os.environ,
        "OLLA_HOST": "127.0.0.1:0",
        "OLLA_HOME": str(home),
        "OLLA_DTYPE": "float32",
        "OLLA_SOURCES": "package",  # no test asks a hub
        **settings,
    }
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "olla", "serve"], env=environment, stderr=stderr
        )
    try:
        yield Daemon(process, home, _port(process, log))
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(timeout=_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _port(process: subprocess.Popen[bytes], log: Path) -> int:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and process.poll() is None:
        found = _LISTENING.search(log.read_text())
        if found:
            return int(found[1])
        time.sleep(0.02)
    raise AssertionError(f"the daemon did not start:\n{log.read_text()}")


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except FileNotFoundError:
        return ""
