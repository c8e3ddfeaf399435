"""A daemon that is left alone: under load, under attack by accident, and on its way out.

Each test has a short form, which always runs, and the long one that is marked slow.
"""

from __future__ import annotations

import http.client
import itertools
import json
import logging
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import ollama
import pytest

from tests.conformance.daemon import Daemon, running_daemon
from tests.conformance.test_faults import eventually, is_gone, lines, posted, runner_pid
from tests.tiny_model import save_tiny_model

pytestmark = pytest.mark.weights

_log = logging.getLogger(__name__)

TINY = "tiny:latest"
ENDLESS = {
    "model": TINY,
    "prompt": "abc",
    "raw": True,
    "options": {"num_predict": 4000, "temperature": 0, "num_ctx": 500, "seed": 1},
}
SHORT = {"model": TINY, "prompt": "Hi", "stream": False, "options": {"num_predict": 2}}
MOST_GROWTH = 1.05


def create_tiny(daemon: Daemon, folder: Path) -> None:
    """A random model that never ends by itself: nothing it may say is its end."""
    files = save_tiny_model(folder, eos_token_id=258)
    with ollama.Client(daemon.url) as client:
        digests = {file: client.create_blob(path) for file, path in files.items()}
        client.create("tiny", files=digests)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the tiny model, for daemons with other settings."""
    home = tmp_path_factory.mktemp("operation")
    with running_daemon(home) as daemon:
        create_tiny(daemon, tmp_path_factory.mktemp("tiny"))
        return daemon.models


@pytest.fixture(scope="module")
def shared(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One daemon for the tests that do not end it: one reply at a time, a log for programs."""
    settings = {"OLLA_MODELS": str(models), "OLLA_NUM_PARALLEL": "1", "OLLA_LOG": "json"}
    with running_daemon(tmp_path_factory.mktemp("shared"), **settings) as daemon:
        yield daemon


@pytest.fixture
def start(tmp_path: Path, models: Path) -> Iterator[Callable[..., Daemon]]:
    with ExitStack() as stack:

        def start(**settings: str) -> Daemon:
            settings = {"OLLA_MODELS": str(models), **settings}
            return stack.enter_context(running_daemon(tmp_path / "home", **settings))

        yield start


def rss(pid: int) -> int:
    """Resident bytes of a process."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def num_fds(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def is_reaped(pid: int) -> bool:
    """Whether every thread of it has ended, and its parent has taken note."""
    return not Path(f"/proc/{pid}").exists()


def many_requests(daemon: Daemon, count: int) -> None:
    """Half of them on one connection, half on connections of their own."""
    connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=30)
    for number in range(count // 2):
        connection.request("GET", "/api/version" if number % 2 else "/api/ps")
        assert connection.getresponse().read()
        assert daemon.ask("GET", "/" if number % 2 else f"/nothing/{number}").body
    connection.close()


@pytest.mark.parametrize(
    ("num_requests", "num_silent"), [(1000, 100), pytest.param(10_000, 500, marks=pytest.mark.slow)]
)
def test_short_requests_and_silent_connections_leave_nothing_behind(
    shared: Daemon, num_requests: int, num_silent: int
) -> None:
    daemon, pid = shared, shared.process.pid
    many_requests(daemon, num_requests // 4)  # what is made once is there
    eventually(lambda: settle(daemon), "all is at rest")
    memory, fds = rss(pid), num_fds(pid)
    with ExitStack() as stack:
        for _ in range(num_silent):
            stack.enter_context(socket.create_connection(("127.0.0.1", daemon.port)))
        eventually(lambda: num_fds(pid) > fds + num_silent - 10, "all are open")
        many_requests(daemon, num_requests)
        growth = rss(pid) / memory
    _log.info("rss %.1f MiB, x%.3f; fds %d", memory / 2**20, growth, fds)

    eventually(lambda: num_fds(pid) <= fds, "all are closed")
    assert growth <= MOST_GROWTH + num_silent * 10_000 / memory  # a connection has its buffers


@pytest.mark.parametrize("rounds", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_runners_killed_at_random_cost_their_requests_only(shared: Daemon, rounds: int) -> None:
    daemon, chance = shared, random.Random(7)
    for _ in range(rounds):
        with ThreadPoolExecutor() as threads:
            asked = [threads.submit(daemon.ask, "POST", "/api/generate", SHORT) for _ in range(3)]
            eventually(lambda: bool(daemon.runner_pids()), "a runner is there")
            time.sleep(chance.uniform(0, 1.5))
            killed = daemon.runner_pids()
            for pid in killed:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            answers = [future.result(60) for future in asked]
        assert {answer.status for answer in answers} <= {200, 500}
        assert all("runner" in answer.error for answer in answers if answer.status == 500)
        for pid in killed:
            eventually(partial(is_reaped, pid), "it is gone")
        assert daemon.ask("GET", "/api/ps").status == 200  # by now the daemon has noticed
        answer = daemon.ask("POST", "/api/generate", SHORT)
        assert answer.status == 200, answer
    assert len(daemon.runner_pids()) == 1


def test_sigterm_under_load_ends_every_stream_with_a_word(start: Callable[..., Daemon]) -> None:
    daemon = start()
    daemon.ask("POST", "/api/generate", SHORT)
    pid = runner_pid(daemon)
    with ExitStack() as stack:
        streams = [
            lines(stack.enter_context(posted(daemon, "/api/generate", ENDLESS))) for _ in range(8)
        ]
        for stream in streams:
            next(stream)
        assert daemon.stop() == 0
        last = [list(stream)[-1] for stream in streams]

    assert all(line == {"error": "the server is shutting down"} for line in last)
    eventually(lambda: is_gone(pid), "the runner ends")


def test_what_runs_may_end_and_what_comes_is_refused(start: Callable[..., Daemon]) -> None:
    daemon = start(OLLA_SHUTDOWN_TIMEOUT="30s")
    daemon.ask("POST", "/api/generate", SHORT)
    kept = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=30)
    kept.request("GET", "/readyz")
    assert kept.getresponse().read() == b'{"status":"ready"}'
    body = {**ENDLESS, "options": {**ENDLESS["options"], "num_predict": 150}}  # type: ignore[dict-item]
    with posted(daemon, "/api/generate", body) as connection:
        replies = lines(connection)
        next(replies)
        daemon.process.send_signal(signal.SIGTERM)
        eventually(lambda: not can_connect(daemon), "the listener is closed")
        kept.request("GET", "/readyz")
        assert kept.getresponse().status == 503
        kept.close()
        last = list(replies)[-1]

    assert (last["done_reason"], last["eval_count"]) == ("length", 150)
    assert daemon.process.wait(15) == 0


def can_connect(daemon: Daemon) -> bool:
    try:
        socket.create_connection(("127.0.0.1", daemon.port), timeout=5).close()
    except ConnectionError:
        return False
    return True


def test_a_second_signal_ends_it_at_once(start: Callable[..., Daemon]) -> None:
    daemon = start(OLLA_SHUTDOWN_TIMEOUT="10m")
    with posted(daemon, "/api/generate", ENDLESS) as connection:
        replies = lines(connection)
        next(replies)
        daemon.process.send_signal(signal.SIGINT)
        eventually(lambda: not can_connect(daemon), "it drains")
        assert daemon.process.poll() is None

        assert daemon.stop(signal.SIGINT) == 0
        assert list(replies)[-1] == {"error": "the server is shutting down"}


CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
int clock_gettime(clockid_t id, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(id, now);
    const char *path = getenv("TEST_CLOCK");
    FILE *file = id == CLOCK_REALTIME && path ? fopen(path, "r") : NULL;
    long seconds = 0;
    if (file) { if (fscanf(file, "%ld", &seconds) == 1) now->tv_sec += seconds; fclose(file); }
    return result;
}
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_a_clock_that_jumps_does_not_disturb_keep_alive(
    start: Callable[..., Daemon], tmp_path: Path
) -> None:
    clock, library = tmp_path / "clock", tmp_path / "clock.so"
    source = tmp_path / "clock.c"
    source.write_text(CLOCK)
    build = ["cc", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"]
    subprocess.run(build, check=True)
    clock.write_text("0")
    daemon = start(LD_PRELOAD=str(library), TEST_CLOCK=str(clock))
    daemon.ask("POST", "/api/generate", {**SHORT, "keep_alive": "3s"})
    day = 24 * 3600
    for offset in (day, -day):
        clock.write_text(str(offset))
        (model,) = daemon.ask("GET", "/api/ps").json["models"]
        expires_at = time.mktime(time.strptime(model["expires_at"][:19], "%Y-%m-%dT%H:%M:%S"))
        assert abs(expires_at - (time.time() + offset)) < 5

    eventually(lambda: not daemon.ask("GET", "/api/ps").json["models"], "it leaves in time")


class Soak:
    """Somebody's mixed work for a while; `errors` has what went wrong and was not meant to."""

    def __init__(self, daemon: Daemon, seconds: float, seed: int) -> None:
        self._url = daemon.url
        self._deadline = time.monotonic() + seconds
        self._chance = random.Random(seed)
        self._name = f"soak-{seed}"
        self.count = 0

    def run(self) -> int:
        with ollama.Client(self._url) as client:
            actions = [self.chat, self.chat, self.embed, self.create, self.cancel, self.unload]
            while time.monotonic() < self._deadline:
                self._chance.choice(actions)(client)
                self.count += 1
        return self.count

    def chat(self, client: ollama.Client) -> None:
        messages = [{"role": "user", "content": f"Hello {self._chance.random()}"}]
        chunks = client.chat(TINY, messages, options={"num_predict": 8}, stream=True)
        assert list(chunks)[-1].done

    def embed(self, client: ollama.Client) -> None:
        assert len(client.embed(TINY, ["a", "b" * self._chance.randrange(1, 50)]).embeddings) == 2

    def create(self, client: ollama.Client) -> None:
        system = str(self._chance.random())
        assert client.create(self._name, from_=TINY, system=system).status == "success"
        assert client.show(self._name).modelfile is not None
        client.delete(self._name)
        assert self._name not in {model.model for model in client.list().models}

    def cancel(self, client: ollama.Client) -> None:
        chunks = client.generate(TINY, "x", raw=True, options={"num_predict": 500}, stream=True)
        for _ in itertools.islice(chunks, 3):
            pass
        chunks.close()  # type: ignore[attr-defined]

    def unload(self, client: ollama.Client) -> None:
        if self._chance.random() < 0.2:  # a load is the slowest of all
            client.generate(TINY, keep_alive=0)
        client.ps()


@pytest.mark.parametrize("seconds", [15, pytest.param(300, marks=pytest.mark.slow)])
def test_mixed_work_leaves_no_errors_and_nothing_behind(
    start: Callable[..., Daemon], seconds: int
) -> None:
    daemon = start()
    pid = daemon.process.pid
    for seed in range(3):
        Soak(daemon, 1.0 + seconds / 30, seed).run()  # threads, caches and the runner are there
    eventually(lambda: settle(daemon), "all is at rest")
    memory, fds = rss(pid), num_fds(pid)
    with ThreadPoolExecutor() as threads:
        soaks = [Soak(daemon, seconds, seed) for seed in range(10, 13)]
        counts = list(threads.map(Soak.run, soaks))
    eventually(lambda: settle(daemon), "all is at rest")

    growth = rss(pid) / memory
    _log.info("%d actions; rss %.1f MiB, x%.3f", sum(counts), memory / 2**20, growth)
    eventually(lambda: num_fds(pid) <= fds, "its files are closed")
    assert growth <= MOST_GROWTH if seconds > 60 else growth <= 1.15  # caches fill at first


def settle(daemon: Daemon) -> bool:
    """Unload everything; whether it is gone."""
    daemon.ask("POST", "/api/generate", {"model": TINY, "keep_alive": 0})
    return not daemon.runner_pids()


def test_with_keys_the_real_commands_need_one(start: Callable[..., Daemon], tmp_path: Path) -> None:
    daemon = start()
    made = daemon.run("key", "create", "ops", "--scope", "infer,manage")
    token = made.stdout.strip()
    assert "cannot be shown again" in made.stderr
    eventually(lambda: daemon.ask("GET", "/api/tags").status == 401, "the key is noticed")

    assert "a valid key is needed" in daemon.run("list").stderr
    assert TINY in daemon.run("list", environment={"OLLA_API_KEY": token}).stdout
    assert daemon.run("key", "list").stdout.splitlines()[1].split()[:2] == ["ops", "infer,manage"]
    headers = {"Authorization": f"Bearer {token}"}
    with ollama.Client(daemon.url, headers=headers) as client:
        assert [model.model for model in client.list().models] == [TINY]
    daemon.run("key", "revoke", "ops")
    daemon.process.send_signal(signal.SIGHUP)
    eventually(lambda: daemon.ask("GET", "/api/tags").status == 200, "no key is needed any more")


def test_what_others_can_reach_does_not_start_without_a_key(tmp_path: Path) -> None:
    with (
        pytest.raises(AssertionError, match="OLLA_INSECURE=1 to let everybody in"),
        running_daemon(tmp_path, OLLA_HOST="0.0.0.0:0"),
    ):
        pass


def figure(daemon: Daemon, name: str) -> float:
    found = re.search(
        rf"^{re.escape(name)} (\S+)$", daemon.ask("GET", "/metrics").body.decode(), re.M
    )
    return float(found[1]) if found else 0.0


def test_the_figures_of_real_work_are_in_the_metrics(shared: Daemon) -> None:
    daemon = shared
    growths = {
        f'olla_reply_tokens_total{{model="{TINY}"}}': 2,
        f'olla_time_to_first_token_seconds_count{{model="{TINY}"}}': 1,
        f'olla_step_seconds_count{{model="{TINY}"}}': 2,
        'olla_requests_total{method="POST",route="/api/generate",status="200"}': 1,
    }
    before = {name: figure(daemon, name) for name in growths}
    daemon.ask("POST", "/api/generate", SHORT, {"X-Request-Id": "mine"})
    log = (daemon.home / "daemon.log").read_text().splitlines()

    for name, growth in growths.items():
        eventually(lambda: figure(daemon, name) >= before[name] + growth, name)  # noqa: B023
    assert figure(daemon, f'olla_loads_total{{model="{TINY}",result="success"}}') >= 1
    entries: list[Any] = [json.loads(line) for line in log]
    assert any(entry.get("request_id") == "mine" for entry in entries)
    assert {"olla.server.app", "olla.runner.child"} <= {entry["source"] for entry in entries}


def ask_from(daemon: Daemon, address: str) -> float:
    """A reply to a client at this address; when it came."""
    connection = http.client.HTTPConnection(
        "127.0.0.1", daemon.port, timeout=60, source_address=(address, 0)
    )
    connection.request("POST", "/api/generate", json.dumps({**ENDLESS, **TURN}))
    response = connection.getresponse()
    assert (response.status, bool(response.read())) == (200, True)
    connection.close()
    return time.monotonic()


TURN = {"stream": False, "options": {"num_predict": 60, "temperature": 0}}


def test_clients_take_turns_on_one_model(shared: Daemon) -> None:
    """Ten requests of one client do not hold up the one of another."""
    ask_from(shared, "127.0.0.1")
    with ThreadPoolExecutor(11) as threads:
        greedy = [threads.submit(ask_from, shared, "127.0.0.1") for _ in range(10)]
        eventually(lambda: len(shared.ask("GET", "/api/ps").json.get("queue", ())) > 5, "they wait")
        modest = threads.submit(ask_from, shared, "127.0.0.2").result()
        later = [future.result() > modest for future in greedy]

    assert sum(later) >= 3
