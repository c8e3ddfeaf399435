"""A client that leaves ends at once what it asked for, on real sockets."""

from __future__ import annotations

import asyncio
import json

import pytest

from olla.requests import ChatChunk
from tests.server.conftest import HANG, Client, FakeInference, FakeSource, open_connection, until

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _ask(client: Client, path: str, **fields: object) -> Connection:
    reader, writer = await open_connection(client)
    body = json.dumps({"model": "m", **fields}).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    return reader, writer


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("sent", [[], [ChatChunk(content="a")]], ids=["before", "amid"])
async def test_leaving_ends_the_reply(
    client: Client, inference: FakeInference, path: str, stream: bool, sent: list[object]
) -> None:
    inference.script = [*sent, HANG]
    _, writer = await _ask(client, path, stream=stream)
    await inference.hangs.wait()

    writer.close()

    await asyncio.wait_for(inference.closed.wait(), 5)
    assert (await client.get("/")).status == 200


async def test_leaving_while_the_server_writes_ends_the_reply(
    client: Client, inference: FakeInference
) -> None:
    inference.script = [ChatChunk(content="x" * 2**20)] * 64  # more than sockets hold
    reader, writer = await _ask(client, "/api/chat")
    await reader.readexactly(1000)

    writer.close()

    await asyncio.wait_for(inference.closed.wait(), 5)


async def test_hanging_up_one_side_is_leaving(client: Client, inference: FakeInference) -> None:
    inference.script = [HANG]
    _, writer = await _ask(client, "/api/chat")
    await inference.hangs.wait()

    writer.write_eof()

    await asyncio.wait_for(inference.closed.wait(), 5)
    writer.close()


@pytest.mark.parametrize("stream", [True, False])
async def test_leaving_a_pull_ends_it(client: Client, source: FakeSource, stream: bool) -> None:
    source.never_ends = True
    _, writer = await _ask(client, "/api/pull", stream=stream)
    await source.hangs.wait()

    writer.close()

    await asyncio.wait_for(source.closed.wait(), 5)


async def test_leaving_a_create_ends_the_pull_of_its_base(
    client: Client, source: FakeSource
) -> None:
    source.never_ends = True
    _, writer = await _ask(client, "/api/create", **{"from": "base"})
    await source.hangs.wait()

    writer.close()

    await asyncio.wait_for(source.closed.wait(), 5)


async def test_one_that_leaves_does_not_disturb_another(
    client: Client, inference: FakeInference
) -> None:
    inference.script = [ChatChunk(content="a"), HANG]
    _, leaver = await _ask(client, "/api/chat")
    stayer_reader, stayer = await _ask(client, "/api/chat")
    await stayer_reader.readuntil(b"\n\r\n")
    await until(lambda: len(inference.requests) == 2)

    leaver.close()
    await asyncio.wait_for(inference.closed.wait(), 5)

    assert not stayer_reader.at_eof()
    stayer.close()
