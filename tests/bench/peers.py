"""The servers that are measured beside each other, each on a port of its own.

All of a model's peers run at once, and are asked one after the other in every round, so that a slow
minute of the machine meets them all. What the others spend meanwhile is watched: see `busy_share`.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Protocol

import psutil

from olla.address import Address
from olla.client import Client
from olla.client.replies import ReplySettings
from olla.client.timing import Api, Question, TimedReply, ask, together
from tests.bench.models import CACHE

ROOT = Path(__file__).parents[2]
NUM_CTX = 2560
MAX_STREAMS = 8
LLAMA_SERVER = CACHE / "llama" / "llama-server"
TRANSFORMERS = CACHE / "transformers" / "bin" / "transformers"
_READY_S = 300.0
_STOP_S = 20.0


class Peer(Protocol):
    """Something that answers prompts."""

    @property
    def name(self) -> str: ...

    @property
    def process(self) -> psutil.Process: ...

    def ask(self, prompts: Sequence[str], num_tokens: int) -> list[TimedReply]:
        """Replies to all prompts at once, timed on this process's clock."""
        ...


@dataclass(frozen=True)
class HttpPeer:
    name: str
    process: psutil.Process
    port: int
    api: Api
    model: str
    ignore_eos: bool = True

    @property
    def client(self) -> Client:
        return Client(Address(port=self.port))

    def ask(self, prompts: Sequence[str], num_tokens: int) -> list[TimedReply]:
        questions = [
            Question(self.model, prompt, num_tokens, NUM_CTX, self.ignore_eos) for prompt in prompts
        ]
        return together([partial(ask, self.client, self.api, asked) for asked in questions])


@dataclass(frozen=True)
class EnginePeer:
    """The engine in a process of its own: no daemon, no HTTP. Its clock is the system's."""

    name: str
    process: psutil.Process
    requests: IO[bytes]
    replies: IO[bytes]

    def ask(self, prompts: Sequence[str], num_tokens: int) -> list[TimedReply]:
        self.requests.write(json.dumps({"prompts": prompts, "num_tokens": num_tokens}).encode())
        self.requests.write(b"\n")
        self.requests.flush()
        return [
            TimedReply(**{**reply, "pieces_s": tuple(reply["pieces_s"])})
            for reply in json.loads(self.replies.readline())
        ]


@contextmanager
def olla(name: str, file: Path, threads: int) -> Iterator[HttpPeer]:
    """A daemon with the model stored and loaded."""
    home = CACHE / "home"
    home.mkdir(parents=True, exist_ok=True)
    port = free_port()
    environ = {
        "OLLA_HOME": str(home),
        "OLLA_HOST": f"127.0.0.1:{port}",
        "OLLA_NUM_THREADS": str(threads),
        "OLLA_KEEP_ALIVE": "-1",
        "OLLA_SPECULATE": "off",  # what it gains depends on the text, and is measured by itself
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "olla"]
    with _server([*command, "serve"], environ, port, "/api/version") as process:
        peer = HttpPeer("olla", process, port, Api.OLLAMA, f"bench-{name}:latest")
        if peer.model not in {model.name for model in peer.client.list()}:
            modelfile = home / "Modelfile"
            modelfile.write_text(f"FROM {file}\n")
            _run([*command, "create", peer.model, "-f", modelfile], environ)
        peer.client.load(ReplySettings(peer.model, options={"num_ctx": NUM_CTX}))
        yield peer


@contextmanager
def llama_cpp(file: Path, threads: int) -> Iterator[HttpPeer]:
    port = free_port()
    command = [
        LLAMA_SERVER, "-m", file, "--host", "127.0.0.1", "--port", port, "-t", threads,
        "-tb", threads, "-np", MAX_STREAMS, "-c", MAX_STREAMS * NUM_CTX, "--no-webui",
    ]  # fmt: skip
    with _server(list(map(str, command)), {}, port, "/health") as process:
        yield HttpPeer("llama.cpp", process, port, Api.OPENAI, "model")


@contextmanager
def transformers_serve(folder: Path, threads: int) -> Iterator[HttpPeer]:
    port = free_port()
    command = [
        TRANSFORMERS, "serve", folder, "--host", "127.0.0.1", "--port", port, "--device", "cpu",
        "--dtype", fast_dtype(), "--continuous-batching", "--cb-num-blocks", 512,
        "--cb-block-size", 64,
    ]  # fmt: skip
    environ = {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    with _server(list(map(str, command)), environ, port, "/health") as process:
        peer = HttpPeer(
            "transformers serve", process, port, Api.OPENAI, str(folder), ignore_eos=False
        )
        yield peer


@contextmanager
def engine_alone(file: Path, threads: int) -> Iterator[EnginePeer]:
    command = [sys.executable, "-m", "tests.bench.engine_alone", str(file), str(threads)]
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "GOMP_SPINCOUNT": "20000"}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        if process.stdout.readline() != b"ready\n":
            raise RuntimeError("the engine could not load the model")
        yield EnginePeer(
            "the engine alone", psutil.Process(process.pid), process.stdin, process.stdout
        )
        process.stdin.close()


def fast_dtype() -> str:
    """What transformers computes quickest in: bfloat16 where the CPU has instructions for it."""
    info = Path("/proc/cpuinfo")
    flags = info.read_text() if info.exists() else ""
    return "bfloat16" if "avx512_bf16" in flags or "amx_bf16" in flags else "float32"


def tree(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


def cpu_seconds(process: psutil.Process) -> float:
    """Spent by a peer so far, with its children."""
    times = [each.cpu_times() for each in tree(process)]
    return float(sum(each.user + each.system for each in times))


def resident_bytes(process: psutil.Process) -> int:
    return sum(each.memory_info().rss for each in tree(process))


def peak_bytes(process: psutil.Process) -> int:
    """The most that one process has had resident (Linux)."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@contextmanager
def _server(
    command: Sequence[str], environ: Mapping[str, str], port: int, path: str
) -> Iterator[psutil.Process]:
    """A started server that answers 200 at `path`, and that has ended when the block has."""
    log = CACHE / "logs" / f"{Path(command[0]).name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env={**os.environ, **environ}, stdout=output, stderr=output
        )
    try:
        _wait_until_ready(process, port, path, log)
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, path: str, log: Path) -> None:
    deadline = time.monotonic() + _READY_S
    while time.monotonic() < deadline and process.poll() is None:
        if _answers(port, path):
            return
        time.sleep(0.05)
    tail = log.read_text(errors="replace")[-2000:]
    raise RuntimeError(f"{process.args!r} did not get ready:\n{tail}")


def _answers(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def _run(command: Sequence[str | Path], environ: Mapping[str, str]) -> None:
    subprocess.run(
        command, env={**os.environ, **environ}, check=True, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
