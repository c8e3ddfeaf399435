"""How long a user waits before the first word, and what the waiting daemon costs.

Runs the installed `olla` against a store and a port of its own. Prints the table that
docs/benchmarks.md holds. The median of ROUNDS is shown, and the range.
"""

from __future__ import annotations

import http.client
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

ROUNDS = 5
DEADLINE_S = 60.0
MODEL = "smollm2:135m"
PROMPT = "Why is the sky blue?"
OLLA = Path(sys.executable).with_name("olla")
ROOT = Path(__file__).parents[2]


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
    environ = os.environ | {"OLLA_HOME": str(home), "OLLA_HOST": f"127.0.0.1:{port}"}
    with (home / "serve.log").open("ab") as log:
        process = subprocess.Popen([OLLA, "serve"], env=environ, stdout=log, stderr=log)
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
    subprocess.run([OLLA, "--help"], check=True, stdout=subprocess.DEVNULL)


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


def first_tokens(daemon: Daemon) -> Iterator[tuple[float, float]]:
    """Seconds to the first text from a fresh runner, and from the same one asked again."""
    for _ in range(ROUNDS):
        yield first_token(daemon), first_token(daemon)
        unload(daemon)


def show(what: str, samples: list[float], unit: str = "s") -> None:
    middle, low, high = statistics.median(samples), min(samples), max(samples)
    print(f"| {what} | {middle:.3g} {unit} | {low:.3g} to {high:.3g} |", flush=True)


def commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip() or "unknown"


def main() -> None:
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(f"{platform.system()} {platform.machine()}, {cpus} CPUs, Python", end=" ")
    print(f"{platform.python_version()}, commit {commit()}, median of {ROUNDS}\n")
    print("| what | median | range |\n| --- | --- | --- |")
    show("`olla --help`", [seconds(run_help) for _ in range(ROUNDS)])
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        starts = [start_and_stop(home) for _ in range(ROUNDS)]
        show("daemon ready", [ready for ready, _ in starts])
        show("daemon, resident memory", [rss / 1e6 for _, rss in starts], "MB")
        with started_daemon(home) as daemon:
            daemon.wait_until_ready()
            show(
                f"pull of {MODEL} from the installed package",
                [seconds(daemon.ask("/api/pull", {"model": MODEL}).read)],
            )
            fresh, warm = zip(*first_tokens(daemon), strict=True)
            show(f"{MODEL}: first token, fresh runner", list(fresh))
            show(f"{MODEL}: first token, loaded runner", list(warm))


if __name__ == "__main__":
    main()
