"""Every limit on what clients may do to the daemon, each with the answer past it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from olla.server.app import create_app
from olla.server.callers import REQUEST_ID
from olla.server.services import Services
from olla.settings import Settings
from tests.server.conftest import HANG, Client, FakeInference, StartClient, open_connection
from tests.server.test_serve import daemon

CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
SOON_S = 0.05


async def read_all(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(10):
        return await reader.read()


async def test_past_the_connections_the_door_is_shut(tmp_path: Path) -> None:
    async with daemon(tmp_path, OLLA_MAX_CONNECTIONS="2") as running:
        open_ones = [await asyncio.open_connection("127.0.0.1", running.port) for _ in "ab"]
        await asyncio.sleep(0.2)
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        answer = await read_all(reader)
        writer.close()
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b'{"error":"too many connections' in answer

        for _, other in open_ones:
            other.close()
        await asyncio.sleep(0.2)
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert (await read_all(reader)).startswith(b"HTTP/1.1 200 ")
        writer.close()


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\nHost: local"])
async def test_a_connection_that_says_nothing_is_closed(tmp_path: Path, said: bytes) -> None:
    async with daemon(tmp_path, OLLA_IDLE_TIMEOUT="200ms") as running:
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(said)

        assert await read_all(reader) == b""
        writer.close()


@pytest.mark.parametrize(
    "head",
    ["GET /" + "x" * 9000, "GET / HTTP/1.1\r\nX-Long: " + "x" * 9000,
     "GET / HTTP/1.1" + "\r\nX-Many: x" * 200],
    ids=["line", "field", "number"],
)  # fmt: skip
async def test_a_head_that_is_too_large_is_refused(client: Client, head: str) -> None:
    reader, writer = await open_connection(client)
    writer.write(head.encode() + b"\r\n\r\n")

    assert (await reader.readline()).split()[1] == b"400"
    writer.close()


async def test_a_body_that_does_not_come_is_not_waited_for(
    aiohttp_client: StartClient, settings: Settings, services: Services
) -> None:
    impatient = replace(settings, body_timeout_s=SOON_S)
    client = await aiohttp_client(create_app(impatient, services))
    reader, writer = await open_connection(client)
    writer.write(b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n{")
    head = await reader.readuntil(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 408 ")
    assert b"OLLA_BODY_TIMEOUT" in await reader.read(200)
    writer.close()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_reply_that_takes_too_long_ends_with_an_error(
    aiohttp_client: StartClient,
    settings: Settings,
    services: Services,
    inference: FakeInference,
    stream: bool,
) -> None:
    from olla.requests import ChatChunk

    inference.script = [ChatChunk(content="Hel"), HANG]
    hasty = replace(settings, request_timeout_s=SOON_S)
    client = await aiohttp_client(create_app(hasty, services))
    response = await client.post("/api/chat", json={**CHAT, "stream": stream})

    assert response.status == (200 if stream else 408)
    assert "the reply took longer than 0.05 seconds" in (await response.text()).splitlines()[-1]
    await asyncio.wait_for(inference.closed.wait(), 5)


@pytest.mark.parametrize("given", ["abc-1.2:3_4", "x" * 64])
async def test_a_request_keeps_the_id_that_it_came_with(client: Client, given: str) -> None:
    response = await client.get("/api/tags", headers={REQUEST_ID: given})

    assert response.headers[REQUEST_ID] == given


@pytest.mark.parametrize("given", ["", "a b", "x" * 65, 'a"b', "ä"])
async def test_an_id_that_is_not_fit_for_a_log_is_replaced(client: Client, given: str) -> None:
    first, second = [
        (await client.get("/nothing", headers={REQUEST_ID: given})).headers[REQUEST_ID]
        for _ in range(2)
    ]

    assert len(first) == 24 and first not in {second, given}


def files_in(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("olla-requests-*/*"))


async def test_bodies_are_kept_for_those_who_look_for_a_fault(
    aiohttp_client: StartClient,
    settings: Settings,
    services: Services,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    debugging = replace(settings, debug_log_requests=True)
    client = await aiohttp_client(create_app(debugging, services))
    await client.post("/api/chat", json=CHAT, headers={REQUEST_ID: "one"})
    await client.post("/api/show", json=CHAT)

    script, body = sorted(files_in(tmp_path), key=lambda path: path.suffix, reverse=True)
    assert body.name == "000001-one.json"
    assert body.read_bytes() == b'{"model": "m", "messages": [{"role": "user", "content": "Hi"}]}'
    assert str(body) in script.read_text() and "/api/chat" in script.read_text()
    assert body.parent.stat().st_mode & 0o777 == 0o700
