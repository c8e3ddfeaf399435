"""How fast a large blob comes over loopback, beside curl, and whom that disturbs.

`python -m tests.bench.pull [--gib 2] [--rounds 3] [--folder DIR]`: one daemon shares a model of
random bytes; curl and another daemon bring it to the same disk in turns. Then both once more, while
the second daemon streams a reply of SmolLM2: the gaps beside curl are the machine's own.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from olla.names import ModelName
from olla.registry.digest import Digest
from olla.registry.manifest import (
    CONFIG_TYPE,
    Layer,
    Manifest,
    MediaType,
    ModelConfig,
    format_config,
    format_manifest,
)
from olla.registry.store import ModelStore
from tests.conformance.daemon import Daemon, running_daemon

CHUNK_BYTES = 16 * 2**20
CHAT_MODEL = "smollm2:135m"
SETTLE_S = 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gib", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        run(Path(folder), int(arguments.gib * 2**30), arguments.rounds)


def run(folder: Path, size_bytes: int, rounds: int) -> None:
    digest = make_model(folder / "near" / "models", size_bytes)
    with (
        running_daemon(folder / "near", OLLA_SHARE="1", OLLA_NOPRUNE="1") as near,
        running_daemon(folder / "far", OLLA_DTYPE="auto") as far,
    ):
        url = f"{near.url}/v2/library/large/blobs/{digest}"
        curl(url, folder / "file")  # the first of each is slower on some machines
        pull(far, near)
        pairs = [(time_curl(url, folder / "file"), time_pull(far, near)) for _ in range(rounds)]
        for name, spent in zip(("curl", "olla pull"), zip(*pairs, strict=True), strict=True):
            print_rate(name, size_bytes, spent)
        shares = [of_curl.wall_s / of_pull.wall_s for of_curl, of_pull in pairs]
        print(f"share of curl's rate: {statistics.median(shares):.0%}")
        clear(far, near)
        with watching_memory(far) as growth:
            pull(far, near)
        print(f"memory of the daemon: + {max(growth) / 2**20:.0f} MiB at most")
        far.ask("POST", "/api/pull", {"model": CHAT_MODEL})
        gaps(far)  # the first reply of a runner has waits of its own
        print_gaps("alone", gaps(far))
        for _ in range(rounds):
            os.sync()
            (folder / "file").unlink()
            print_gaps("beside curl", gaps_during(far, lambda: curl(url, folder / "file")))
            clear(far, near)
            print_gaps("beside a pull", gaps_during(far, lambda: pull(far, near)))


def make_model(models: Path, size_bytes: int) -> Digest:
    store = ModelStore(models)
    with store.blobs.writer() as writer:
        for offset in range(0, size_bytes, CHUNK_BYTES):
            writer.write(os.urandom(min(CHUNK_BYTES, size_bytes - offset)))
        digest = writer.commit()
    config = format_config(ModelConfig())
    layers = (Layer(MediaType.LICENSE, digest, size_bytes),)
    manifest = Manifest(Layer(CONFIG_TYPE, store.blobs.put(config), len(config)), layers)
    store.put(ModelName.parse("large"), format_manifest(manifest))
    return digest


class Spent(NamedTuple):
    wall_s: float
    cpu_s: float


def curl(url: str, path: Path) -> None:
    subprocess.run(["curl", "-sSf", "-o", str(path), url], check=True)


def time_curl(url: str, path: Path) -> Spent:
    os.sync()
    path.unlink(missing_ok=True)
    started, before = time.monotonic(), os.times()
    curl(url, path)
    after = os.times()
    cpu_s = sum(after[2:4]) - sum(before[2:4])
    return Spent(time.monotonic() - started, cpu_s)


def clear(far: Daemon, near: Daemon) -> None:
    """Make room, once what curl left is on the disk: curl has nothing of that kind to share the
    machine with either."""
    os.sync()
    far.ask("DELETE", "/api/delete", {"model": place(near)})


def pull(far: Daemon, near: Daemon) -> None:
    body = {"model": place(near), "insecure": True, "stream": False}
    answer = far.ask("POST", "/api/pull", body)
    assert answer.json == {"status": "success"}, answer


def time_pull(far: Daemon, near: Daemon) -> Spent:
    clear(far, near)
    started, before = time.monotonic(), cpu_s(far)
    pull(far, near)
    return Spent(time.monotonic() - started, cpu_s(far) - before)


def place(near: Daemon) -> str:
    return f"127.0.0.1:{near.port}/library/large"


def cpu_s(daemon: Daemon) -> float:
    """What the daemon, without its runners, has had of the CPUs, in seconds."""
    fields = Path(f"/proc/{daemon.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def print_rate(name: str, size_bytes: int, spent: Sequence[Spent]) -> None:
    rate = size_bytes / statistics.median(each.wall_s for each in spent) / 1e6
    cpu_s_per_gb = statistics.median(each.cpu_s for each in spent) / size_bytes * 1e9
    times = ", ".join(f"{each.wall_s:.2f} s" for each in spent)
    print(f"{name}: {rate:.0f} MB/s ({times}), {cpu_s_per_gb:.2f} s of CPU a GB")


def print_gaps(what: str, found: Sequence[float]) -> None:
    longest, median = max(found) * 1000, statistics.median(found) * 1000
    print(f"gaps of a stream {what}: {longest:.0f} ms at most, {median:.0f} ms in the median")


@contextmanager
def watching_memory(daemon: Daemon) -> Iterator[list[int]]:
    """By how many bytes the daemon has grown, looked at again and again."""
    before = resident_bytes(daemon)
    growth = [0]
    is_over = threading.Event()

    def look() -> None:
        while not is_over.wait(0.02):
            growth.append(resident_bytes(daemon) - before)

    with ThreadPoolExecutor(1) as thread:
        thread.submit(look)
        try:
            yield growth
        finally:
            is_over.set()


def resident_bytes(daemon: Daemon) -> int:
    pages = Path(f"/proc/{daemon.process.pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def gaps(daemon: Daemon, is_over: threading.Event | None = None) -> list[float]:
    """The times between the pieces of a reply, until it ends or is no longer wanted."""
    body = {
        "model": CHAT_MODEL,
        "prompt": "1, 2, 3, 4, 5, 6, 7, 8, 9, 10,",
        "raw": True,
        "options": {"temperature": 0, "num_predict": 150 if is_over is None else 4000},
    }
    connection = HTTPConnection("127.0.0.1", daemon.port)
    connection.request("POST", "/api/generate", json.dumps(body))
    moments = []
    with connection.getresponse() as response:
        for _ in response:
            moments.append(time.monotonic())
            if is_over is not None and is_over.is_set():
                break
    connection.close()
    return [after - before for before, after in pairwise(moments)]


def gaps_during(far: Daemon, work: Callable[[], None]) -> list[float]:
    """The gaps of a reply that has begun when the work does."""
    is_over = threading.Event()
    with ThreadPoolExecutor(1) as thread:
        found = thread.submit(gaps, far, is_over)
        time.sleep(SETTLE_S)
        work()
        is_over.set()
        return found.result()


if __name__ == "__main__":
    main()
