"""The daemon as a process: it starts light, serves, and ends when asked to."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pytest
from aiohttp import ClientSession

from olla import __version__
from olla.names import ModelName
from olla.registry.digest import Digest
from olla.registry.store import ModelStore
from tests.server.conftest import add_model, until

MAX_RSS_KB = 80 * 1024
LISTENING = re.compile(rf'msg="Listening on 127\.0\.0\.1:(\d+) \(version {__version__}\)"')


@dataclass
class Daemon:
    process: Process
    port: int
    store: ModelStore

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def log(self) -> str:
        """The rest of its log, once it has ended."""
        _, stderr = await asyncio.wait_for(self.process.communicate(), 10)
        return stderr.decode()


@asynccontextmanager
async def daemon(home: Path, **environment: str) -> AsyncIterator[Daemon]:
    process = await _spawn(home, **environment)
    try:
        assert process.stderr is not None
        while not (found := LISTENING.search((await process.stderr.readline()).decode())):
            assert process.returncode is None
        yield Daemon(process, int(found[1]), ModelStore(home / "models"))
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def _spawn(home: Path, **environment: str) -> Process:
    settings = {
        "OLLA_HOST": "127.0.0.1:0",
        "OLLA_HOME": str(home),
        "OLLA_SHUTDOWN_TIMEOUT": "0",
        **environment,
    }
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "olla", "serve", env={**os.environ, **settings}, stderr=PIPE
    )


async def _interrupt(daemon: Daemon) -> None:
    daemon.process.send_signal(signal.SIGINT)


async def _terminate(daemon: Daemon) -> None:
    daemon.process.send_signal(signal.SIGTERM)


async def _ask_to_shut_down(daemon: Daemon) -> None:
    async with ClientSession(daemon.url) as session, session.post("/api/shutdown") as response:
        assert response.status == 200


async def test_a_daemon_answers_and_is_small(tmp_path: Path) -> None:
    add_model(ModelStore(tmp_path / "models"), "tiny")

    async with daemon(tmp_path) as running, ClientSession(running.url) as session:
        names = await (await session.get("/api/tags")).json()
        shown = await session.post("/api/show", json={"model": "tiny"})
        memory, files = _memory_of(running.process)

    assert [model["name"] for model in names["models"]] == ["tiny:latest"]
    assert shown.status == 200
    assert memory <= MAX_RSS_KB
    assert not {name for name in ("torch", "numpy", "tokenizers") if name in files}


def _memory_of(process: Process) -> tuple[int, str]:
    """Its resident kilobytes, and the names of the files it has mapped."""
    folder = Path(f"/proc/{process.pid}")
    rss = re.search(r"VmRSS:\s+(\d+) kB", (folder / "status").read_text())
    assert rss is not None
    return int(rss[1]), (folder / "maps").read_text()


async def _silent_writer(fifo: Path) -> BinaryIO:
    """A writer for whom a reader waits; it never writes."""
    async with asyncio.timeout(10):
        while True:
            with suppress(OSError):  # ENXIO: nobody reads yet
                return os.fdopen(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK), "wb")
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("end", [_interrupt, _terminate, _ask_to_shut_down])
async def test_it_ends_when_asked_to(
    tmp_path: Path, end: Callable[[Daemon], Awaitable[None]]
) -> None:
    async with daemon(tmp_path) as running:
        await end(running)

        log = await running.log()

    assert running.process.returncode == 0
    assert "Traceback" not in log


async def test_it_ends_though_a_thread_hangs_on_the_disk(tmp_path: Path) -> None:
    async with daemon(tmp_path) as running, ClientSession(running.url) as session:
        add_model(running.store, "tiny")
        model = running.store.resolve(ModelName.parse("tiny"))
        config = running.store.blobs.path(model.manifest.config.digest)
        config.unlink()
        os.mkfifo(config)
        asking = asyncio.create_task(session.post("/api/show", json={"model": "tiny"}))
        with await _silent_writer(config):
            await _terminate(running)
            log = await running.log()
        response = await asking

    assert response.status == 503
    assert running.process.returncode == 0
    assert "something did not end within 6 s" in log


async def test_a_taken_address_is_an_error(tmp_path: Path) -> None:
    async with daemon(tmp_path) as running:
        second = await _spawn(tmp_path, OLLA_HOST=f"127.0.0.1:{running.port}")
        _, stderr = await second.communicate()

    expected = f"listen tcp 127.0.0.1:{running.port}: bind: address already in use"
    assert second.returncode == 1
    assert stderr.decode().splitlines()[-1] == f"Error: {expected}"


@pytest.mark.parametrize(
    ("host", "error"),
    [
        ("192.0.2.1:1", "listen tcp 192.0.2.1:1: bind: cannot assign requested address"),
        ("no.such.host.invalid:1", "lookup no.such.host.invalid: no such host"),
    ],
)
async def test_an_address_that_cannot_be_listened_on(tmp_path: Path, host: str, error: str) -> None:
    process = await _spawn(tmp_path, OLLA_HOST=host)
    _, stderr = await process.communicate()

    assert process.returncode == 1
    assert stderr.decode().rstrip().endswith(error)


async def test_stopping_in_the_middle_of_an_upload_leaves_the_store_valid(tmp_path: Path) -> None:
    data = b"x" * 1000
    async with daemon(tmp_path) as running:
        add_model(running.store, "tiny")
        blobs = set(running.store.blobs.directory.iterdir())
        _, writer = await asyncio.open_connection("127.0.0.1", running.port)
        head = f"POST /api/blobs/{Digest.of(data)} HTTP/1.1\r\nHost: localhost\r\n"
        writer.write(f"{head}Content-Length: 1000\r\n\r\n".encode() + data[:10])
        await until(lambda: set(running.store.blobs.directory.iterdir()) > blobs)

        await _terminate(running)
        await running.log()
        writer.close()

    assert running.process.returncode == 0
    assert set(running.store.blobs.directory.iterdir()) == blobs
    assert running.store.resolve(ModelName.parse("tiny"))


@pytest.mark.parametrize(("environment", "is_kept"), [({}, False), ({"OLLA_NOPRUNE": "1"}, True)])
async def test_the_store_is_pruned_at_the_start(
    tmp_path: Path, environment: dict[str, str], is_kept: bool
) -> None:
    store = ModelStore(tmp_path / "models")
    unused = store.blobs.path(store.blobs.put(b"nobody needs this"))
    os.utime(unused, (0, 0))

    async with daemon(tmp_path, **environment):
        assert unused.exists() is is_kept


async def test_the_log_has_a_line_for_each_request(tmp_path: Path) -> None:
    async with daemon(tmp_path) as running:
        async with ClientSession(running.url) as session:
            body = json.dumps({"model": "secret-prompt"})
            await session.post("/api/show", data=body)
        await _terminate(running)
        log = await running.log()

    assert re.search(r'level=INFO .*msg="method=POST path=/api/show status=404 took_ms=', log)
    assert "secret-prompt" not in log
