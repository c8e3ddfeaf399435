"""Clients that leave, processes that are killed, names that many change at once.

Every fault is a real one, over sockets and signals; afterwards the daemon answers and its store
holds nothing that is not whole.
"""

from __future__ import annotations

import hashlib
import http.client
import itertools
import json
import os
import random
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import ollama
import pytest

from tests.conformance.conftest import MODEL
from tests.conformance.daemon import Daemon, running_daemon
from tests.conformance.stored import faults

pytestmark = [pytest.mark.weights, pytest.mark.usefixtures("alone")]

DIED = (
    "model runner has unexpectedly stopped, this may be due to resource limitations or an "
    "internal error, check ollama server logs for details"
)
# Greedy, it goes on counting for minutes.
LONG = {
    "model": MODEL,
    "prompt": "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,",
    "raw": True,
    "options": {"num_predict": 3000, "temperature": 0},
}
SHORT = {"model": MODEL, "prompt": "Hi", "stream": False, "options": {"num_predict": 1}}
DEADLINE_S = 30.0
KILLS = [signal.SIGKILL, signal.SIGTERM]


def eventually(holds: Callable[[], bool], what: str) -> None:
    """Wait until something that another process does has happened."""
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.05)


@contextmanager
def posted(daemon: Daemon, path: str, body: object) -> Iterator[socket.socket]:
    """A request whose answer is read, or not, from the bare socket; leaving the block hangs up."""
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", daemon.port), timeout=DEADLINE_S) as connection:
        connection.sendall(head.encode() + data)
        try:
            yield connection
        finally:
            with suppress(OSError):  # the daemon may be gone
                connection.shutdown(socket.SHUT_RDWR)  # at once, whoever still reads from it


def lines(connection: socket.socket) -> Iterator[dict[str, Any]]:
    """The lines of a streamed answer, as they come."""
    with http.client.HTTPResponse(connection) as response:
        response.begin()
        yield from map(json.loads, response)


def runner_pid(daemon: Daemon) -> int:
    (pid,) = daemon.runner_pids()
    return pid


def cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def is_idle(pid: int) -> bool:
    before = cpu_ticks(pid)
    time.sleep(0.3)  # the span that is measured
    return cpu_ticks(pid) == before


def unload(daemon: Daemon) -> None:
    daemon.ask("POST", "/api/generate", {"model": MODEL, "keep_alive": 0})
    eventually(lambda: not daemon.runner_pids(), "the runner ends")


def is_gone(pid: int) -> bool:
    with suppress(FileNotFoundError):
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    return True


def test_two_chats_at_once_both_stream(client: ollama.Client) -> None:
    def moments(text: str) -> list[float]:
        chunks = client.chat(
            MODEL,
            [{"role": "user", "content": text}],
            options={"num_predict": 16, "temperature": 0},
            stream=True,
        )
        return [time.monotonic() for _ in chunks]

    client.generate(MODEL)
    with ThreadPoolExecutor() as threads:
        first, second = threads.map(moments, ("Why is the sky blue?", "Tell me a long story."))

    assert len(first) > 10 and len(second) > 10
    turns = sorted([(moment, 1) for moment in first] + [(moment, 2) for moment in second])
    changes = sum(before[1] != after[1] for before, after in itertools.pairwise(turns))
    assert changes > 10  # one behind the other would be a single change


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_in_mid_reply_frees_the_engine(
    daemon: Daemon, client: ollama.Client, stream: bool
) -> None:
    client.generate(MODEL)
    pid = runner_pid(daemon)
    before = cpu_ticks(pid)
    with posted(daemon, "/api/generate", {**LONG, "stream": stream}) as connection:
        if stream:
            replies = lines(connection)
            assert [next(replies)["done"] for _ in range(3)] == [False] * 3
        eventually(lambda: cpu_ticks(pid) > before + 30, "the runner works")

    eventually(lambda: is_idle(pid), "the runner rests")
    started = time.monotonic()
    assert daemon.ask("POST", "/api/generate", SHORT).json["done"]
    assert time.monotonic() - started < 5
    assert runner_pid(daemon) == pid


def test_of_many_clients_those_that_leave_do_not_disturb_the_one_that_stays(
    daemon: Daemon, client: ollama.Client
) -> None:
    greedy = {"temperature": 0, "num_predict": 12}
    alone = client.generate(MODEL, "Why is the sky blue?", options=greedy).response

    with ThreadPoolExecutor() as threads:
        staying = threads.submit(client.generate, MODEL, "Why is the sky blue?", options=greedy)
        for _ in range(2):
            with posted(daemon, "/api/generate", LONG) as connection:
                next(lines(connection))

        assert staying.result(DEADLINE_S).response == alone


def test_a_load_survives_the_client_that_asked_for_it(
    daemon: Daemon, client: ollama.Client
) -> None:
    unload(daemon)
    with posted(daemon, "/api/generate", LONG):
        eventually(lambda: bool(daemon.runner_pids()), "the load begins")
        pid = runner_pid(daemon)

    eventually(lambda: [m.model for m in client.ps().models] == [MODEL], "the model is loaded")
    assert daemon.ask("POST", "/api/generate", SHORT).json["done"]
    assert runner_pid(daemon) == pid


def test_a_runner_killed_in_mid_reply_ends_the_stream_with_an_error(
    daemon: Daemon, client: ollama.Client
) -> None:
    client.generate(MODEL)
    with posted(daemon, "/api/generate", LONG) as connection:
        replies = lines(connection)
        assert not next(replies)["done"]
        os.kill(runner_pid(daemon), signal.SIGKILL)
        last = list(replies)[-1]

    assert last == {"error": f"an error was encountered while running the model: {DIED}"}
    assert daemon.ask("POST", "/api/generate", SHORT).json["done"]


def test_a_runner_killed_before_anything_was_sent_is_a_500(
    daemon: Daemon, client: ollama.Client
) -> None:
    client.generate(MODEL)
    pid = runner_pid(daemon)
    before = cpu_ticks(pid)
    with ThreadPoolExecutor() as threads:
        reply = threads.submit(daemon.ask, "POST", "/api/generate", {**LONG, "stream": False})
        eventually(lambda: cpu_ticks(pid) > before + 30, "the runner works")
        os.kill(pid, signal.SIGKILL)
        answer = reply.result(DEADLINE_S)

    assert answer.status == 500
    assert answer.error.endswith(DIED)
    assert client.ps().models == []


def test_a_runner_killed_while_it_loads_is_a_500(daemon: Daemon, client: ollama.Client) -> None:
    unload(daemon)
    with ThreadPoolExecutor() as threads:
        reply = threads.submit(daemon.ask, "POST", "/api/generate", SHORT)
        eventually(lambda: bool(daemon.runner_pids()), "the load begins")
        os.kill(runner_pid(daemon), signal.SIGKILL)
        answer = reply.result(DEADLINE_S)

    assert answer.status == 500
    assert answer.error == "model runner ended while loading the model: exit status -9"
    assert daemon.ask("POST", "/api/generate", SHORT).json["done"]


@pytest.mark.parametrize("number", KILLS)
def test_a_killed_daemon_leaves_no_runner(tmp_path: Path, number: signal.Signals) -> None:
    with running_daemon(tmp_path) as daemon:
        assert daemon.ask("POST", "/api/pull", {"model": MODEL}).status == 200
        with posted(daemon, "/api/generate", LONG) as connection:
            replies = lines(connection)
            next(replies)
            pid = runner_pid(daemon)
            status = daemon.stop(number)

            assert status == (-signal.SIGKILL if number is signal.SIGKILL else 0)
            if number is signal.SIGTERM:
                assert list(replies)[-1] == {"error": "the server is shutting down"}
    eventually(lambda: is_gone(pid), "the runner ends")


class Upload(NamedTuple):
    data: bytes

    @property
    def digest(self) -> str:
        return f"sha256:{hashlib.sha256(self.data).hexdigest()}"


class Repository(NamedTuple):
    """A Hugging Face repository that takes a while to transfer; nothing ever loads it."""

    config: Upload
    weights: Upload

    @property
    def files(self) -> dict[str, str]:
        return {"config.json": self.config.digest, "model.safetensors": self.weights.digest}


@pytest.fixture(scope="module")
def repository() -> Repository:
    rows = 2**19
    size = rows * 32 * 2
    tensor = {"dtype": "BF16", "shape": [rows, 32], "data_offsets": [0, size]}
    header = json.dumps({"model.embed_tokens.weight": tensor}).encode()
    weights = struct.pack("<Q", len(header)) + header + random.Random(1).randbytes(size)
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    return Repository(Upload(json.dumps(config).encode()), Upload(weights))


def upload_part(daemon: Daemon, upload: Upload, share: float) -> socket.socket:
    """Send a share of a blob, and leave the connection open."""
    connection = socket.create_connection(("127.0.0.1", daemon.port), timeout=DEADLINE_S)
    head = f"POST /api/blobs/{upload.digest} HTTP/1.1\r\nHost: localhost\r\n"
    connection.sendall(f"{head}Content-Length: {len(upload.data)}\r\n\r\n".encode())
    connection.sendall(upload.data[: int(share * len(upload.data))])
    return connection


def check_after_restart(home: Path) -> None:
    with running_daemon(home) as daemon:
        assert faults(daemon.models) == []
        listed = {model["name"] for model in daemon.ask("GET", "/api/tags").json["models"]}
        on_disk = list((daemon.models / "manifests").rglob("[!.]*"))
        assert len(listed) == sum(path.is_file() for path in on_disk)


@pytest.mark.parametrize("number", KILLS)
def test_a_daemon_killed_in_mid_upload_keeps_no_part_of_it(
    tmp_path: Path, repository: Repository, number: signal.Signals
) -> None:
    blobs = tmp_path / "models" / "blobs"
    for share in (0.0, 0.3, 0.999):
        with running_daemon(tmp_path) as daemon:
            with upload_part(daemon, repository.weights, share):
                eventually(lambda: blobs.is_dir() and any(blobs.iterdir()), "the upload begins")
                daemon.stop(number)
            left = list(blobs.iterdir())
            # What SIGKILL leaves under another name is cleared away when it is an hour old.
            assert not any(path.name.startswith("sha256-") for path in left)
            assert number is signal.SIGKILL or not left
            for path in left:
                path.unlink()
    check_after_restart(tmp_path)


@pytest.mark.parametrize("number", KILLS)
def test_a_daemon_killed_in_mid_pull_has_the_whole_model_or_none(
    tmp_path: Path, number: signal.Signals
) -> None:
    for num_lines in (1, 3, 9):
        with (
            running_daemon(tmp_path) as daemon,
            posted(daemon, "/api/pull", {"model": MODEL}) as connection,
        ):
            replies = lines(connection)
            assert all("error" not in next(replies) for _ in range(num_lines))
            daemon.stop(number)
        assert faults(daemon.models) == []
    check_after_restart(tmp_path)


@pytest.mark.parametrize("number", KILLS)
def test_a_daemon_killed_in_mid_create_has_the_whole_model_or_none(
    tmp_path: Path, repository: Repository, number: signal.Signals
) -> None:
    for num_lines in (0, 1, 3):
        with running_daemon(tmp_path) as daemon:
            for upload in repository:
                path = f"/api/blobs/{upload.digest}"
                assert daemon.ask("POST", path, upload.data).status in {200, 201}
            request = {"model": f"made-{num_lines}", "files": repository.files, "system": "Hi."}
            with posted(daemon, "/api/create", request) as connection:
                if num_lines:
                    replies = lines(connection)
                    assert all("error" not in next(replies) for _ in range(num_lines))
                daemon.stop(number)
        assert faults(daemon.models) == []
    check_after_restart(tmp_path)


def test_what_a_killed_daemon_was_doing_can_be_done_again(
    tmp_path: Path, repository: Repository
) -> None:
    with (
        running_daemon(tmp_path) as daemon,
        posted(daemon, "/api/pull", {"model": MODEL}) as pulling,
        upload_part(daemon, repository.weights, 0.5),
    ):
        next(line for line in lines(pulling) if "completed" in line)
        daemon.stop(signal.SIGKILL)

    with running_daemon(tmp_path) as daemon, ollama.Client(daemon.url) as client:
        for upload in repository:
            assert daemon.ask("POST", f"/api/blobs/{upload.digest}", upload.data).status == 201
        client.create("made", files=repository.files)
        assert client.pull(MODEL).status == "success"
        assert {model.model for model in client.list().models} == {MODEL, "made:latest"}
        assert faults(daemon.models) == []


def churn(daemon: Daemon, seed: int, ready: threading.Barrier) -> list[int]:
    """Change names at random; the status of what was refused."""
    chance = random.Random(seed)
    refused = []
    with ollama.Client(daemon.url) as client:
        ready.wait()
        for number in range(12):
            one, other = chance.choice("abc"), chance.choice("abc")
            text = f"{seed}.{number}"
            actions: list[Callable[[], object]] = [
                partial(client.create, one, from_=MODEL, system=text, template=text),
                partial(client.copy, one, other),
                partial(client.delete, one),
                partial(client.pull, MODEL),
                partial(client.delete, MODEL),
                client.list,
            ]
            try:
                chance.choice(actions)()
            except ollama.ResponseError as error:
                refused.append(error.status_code)
    return refused


def test_many_threads_may_change_the_same_names(tmp_path: Path) -> None:
    """Nothing but 404, for a name that another thread had just deleted, is refused."""
    num_threads = 4
    ready = threading.Barrier(num_threads)
    with running_daemon(tmp_path) as daemon:
        with ThreadPoolExecutor(num_threads) as threads:
            refused = threads.map(partial(churn, daemon, ready=ready), range(num_threads))
        assert set(itertools.chain(*refused)) <= {404}
        assert faults(daemon.models) == []
        assert daemon.ask("POST", "/api/pull", {"model": MODEL}).status == 200
        assert daemon.ask("POST", "/api/show", {"model": MODEL}).status == 200
    check_after_restart(tmp_path)
