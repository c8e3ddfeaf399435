"""How long a user waits before the first word, and what the waiting daemon costs.

Runs `olla` against a store and a port of its own.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.bench.report import Aim, Measure

DEADLINE_S = 60.0
MODEL = "smollm2:135m"
PROMPT = "Why is the sky blue?"
ROOT = Path(__file__).parents[2]
OLLA = (sys.executable, "-m", "olla")


class Daemon:
    """A started `olla serve`, with a store and a port of its own."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process = process
        self._port = port

    def ask(self, path: str, body: object = None) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=DEADLINE_S)
        connection.request("GET" if body is None else "POST", path, json.dumps(body))
        return connection.getresponse()

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            try:
                self.ask("/api/version").read()
            except ConnectionRefusedError:
                time.sleep(0.002)
            else:
                return
        raise TimeoutError(f"the daemon did not answer within {DEADLINE_S} s")

    def rss_bytes(self) -> int:
        return int(psutil.Process(self.process.pid).memory_info().rss)


@contextmanager
def started_daemon(home: Path) -> Iterator[Daemon]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environ = os.environ | {
        "OLLA_HOME": str(home),
        "OLLA_HOST": f"127.0.0.1:{port}",
        "PYTHONPATH": str(ROOT),
    }
    with (home / "serve.log").open("ab") as log:
        process = subprocess.Popen([*OLLA, "serve"], env=environ, stdout=log, stderr=log)
    try:
        yield Daemon(process, port)
    finally:
        process.terminate()
        process.wait(DEADLINE_S)


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def run_help() -> None:
    subprocess.run([*OLLA, "--help"], check=True, stdout=subprocess.DEVNULL)


def start_and_stop(home: Path) -> tuple[float, int]:
    """Seconds until a new daemon answers, and its resident memory then."""
    start = time.perf_counter()
    with started_daemon(home) as daemon:
        daemon.wait_until_ready()
        return time.perf_counter() - start, daemon.rss_bytes()


def first_token(daemon: Daemon) -> float:
    """Seconds to the first text of a reply; loads the model if no runner has it."""
    body = {"model": MODEL, "prompt": PROMPT, "options": {"temperature": 0, "num_predict": 8}}
    start = time.perf_counter()
    reply = daemon.ask("/api/generate", body)
    for line in reply:
        chunk = json.loads(line)
        if "error" in chunk:
            raise RuntimeError(chunk["error"])
        if chunk["response"]:
            took = time.perf_counter() - start
            reply.read()
            return took
    raise RuntimeError("a reply without text")


def unload(daemon: Daemon) -> None:
    daemon.ask("/api/generate", {"model": MODEL, "keep_alive": 0}).read()
    while json.load(daemon.ask("/api/ps"))["models"]:
        time.sleep(0.01)


def first_tokens(daemon: Daemon, num_rounds: int) -> Iterator[tuple[float, float]]:
    """Seconds to the first text from a fresh runner, and from the same one asked again."""
    for _ in range(num_rounds):
        yield first_token(daemon), first_token(daemon)
        unload(daemon)


def commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip() or "unknown"


def measures(num_rounds: int) -> Iterator[Measure]:
    helps = tuple(seconds(run_help) for _ in range(num_rounds))
    yield Measure("-", "`olla --help`", "s", helps, Aim(0.15, is_at_most=True))
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        starts = [start_and_stop(home) for _ in range(num_rounds)]
        ready, resident = zip(*starts, strict=True)
        yield Measure("-", "daemon ready", "s", ready, Aim(0.6, is_at_most=True))
        megabytes = tuple(rss / 1e6 for rss in resident)
        yield Measure("-", "daemon, resident", "MB", megabytes, Aim(80, is_at_most=True))
        with started_daemon(home) as daemon:
            daemon.wait_until_ready()
            pull = seconds(daemon.ask("/api/pull", {"model": MODEL}).read)
            yield Measure(MODEL, "pull from the installed package", "s", (pull,))
            fresh, warm = zip(*first_tokens(daemon, num_rounds), strict=True)
            yield Measure(MODEL, "first token, fresh runner", "s", fresh, Aim(3, is_at_most=True))
            yield Measure(MODEL, "first token, loaded runner", "s", warm)
