"""How fast a large blob comes over loopback, beside curl, and whom that disturbs.

`python -m tests.bench.pull [--gib 2] [--rounds 3] [--folder DIR]`: one daemon shares a model of
random bytes; curl and another daemon bring it to the same disk in turns. Then once more while the
second daemon streams a reply of SmolLM2.
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
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from itertools import pairwise
from pathlib import Path

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
        running_daemon(folder / "far") as far,
    ):
        url = f"{near.url}/v2/library/large/blobs/{digest}"
        pairs = [(curl(url, folder / "file"), pull(far, near)) for _ in range(rounds)]
        for name, times in zip(("curl", "olla pull"), zip(*pairs, strict=True), strict=True):
            rate = size_bytes / statistics.median(times) / 1e6
            print(f"{name}: {rate:.0f} MB/s ({', '.join(f'{t:.2f} s' for t in times)})")
        shares = [of_curl / of_pull for of_curl, of_pull in pairs]
        print(f"share of curl's rate: {statistics.median(shares):.0%}")
        with watching_memory(far) as growth:
            pull(far, near)
        print(f"memory of the daemon: + {max(growth) / 2**20:.0f} MiB at most")
        far.ask("POST", "/api/pull", {"model": CHAT_MODEL})
        print(f"longest gap of a stream alone: {max(gaps(far)) * 1000:.0f} ms")
        print(f"longest gap during a pull: {gap_during(far, near) * 1000:.0f} ms")


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


def curl(url: str, path: Path) -> float:
    path.unlink(missing_ok=True)
    os.sync()
    started = time.monotonic()
    subprocess.run(["curl", "-sSf", "-o", str(path), url], check=True)
    return time.monotonic() - started


def pull(far: Daemon, near: Daemon) -> float:
    name = f"127.0.0.1:{near.port}/library/large"
    far.ask("DELETE", "/api/delete", {"model": name})
    os.sync()
    started = time.monotonic()
    answer = far.ask("POST", "/api/pull", {"model": name, "insecure": True, "stream": False})
    assert answer.json == {"status": "success"}, answer
    return time.monotonic() - started


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


def gap_during(far: Daemon, near: Daemon) -> float:
    is_over = threading.Event()
    with ThreadPoolExecutor(1) as thread:
        found = thread.submit(gaps, far, is_over)
        pull(far, near)
        is_over.set()
        return max(found.result())


if __name__ == "__main__":
    main()
