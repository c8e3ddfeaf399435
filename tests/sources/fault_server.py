"""A server of blobs on loopback that misbehaves as it is told to, and notes what was asked."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

_RANGE = re.compile(r"bytes=(\d+)-(\d+)")


@dataclass
class Asked:
    """One request."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes = b""

    def range(self, size_bytes: int) -> tuple[int, int]:
        """First byte and end of what is asked for."""
        match = _RANGE.fullmatch(self.headers.get("range", ""))
        return (int(match[1]), int(match[2]) + 1) if match else (0, size_bytes)


class Connection:
    """Where an answer is written, byte by byte; raw on purpose, so that it may be broken."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self.sent_bytes = 0

    async def head(self, status: int, *lines: str) -> None:
        text = "\r\n".join((f"HTTP/1.1 {status} Whatever", *lines, "", ""))
        self._writer.write(text.encode("latin-1"))
        await self._writer.drain()

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()
        self.sent_bytes += len(data)

    async def answer(self, status: int, body: bytes = b"", *lines: str) -> None:
        await self.head(status, f"Content-Length: {len(body)}", *lines)
        await self.send(body)

    async def blob(self, asked: Asked, data: bytes, *, cut_after: int | None = None) -> None:
        """The range that was asked for, or the first bytes of it and then no more."""
        first, end = asked.range(len(data))
        lines = [f"Content-Length: {end - first}"]
        if "range" in asked.headers:
            lines.append(f"Content-Range: bytes {first}-{end - 1}/{len(data)}")
        await self.head(206 if "range" in asked.headers else 200, *lines)
        await self.send(data[first : end if cut_after is None else min(end, first + cut_after)])
        if cut_after is not None and first + cut_after < end:
            raise ConnectionResetError


Script = Callable[[Asked, Connection], Awaitable[None]]


@dataclass
class FaultServer:
    """`script` answers every request; a ConnectionError of its own closes the connection."""

    script: Script
    port: int = 0
    asked: list[Asked] = field(default_factory=list)
    sent_bytes: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(writer)
        try:
            while asked := await _read(reader):
                self.asked.append(asked)
                await self.script(asked, connection)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.sent_bytes += connection.sent_bytes
            writer.close()


@asynccontextmanager
async def fault_server(script: Script) -> AsyncIterator[FaultServer]:
    fault = FaultServer(script)
    server = await asyncio.start_server(fault._serve, "127.0.0.1", 0)
    fault.port = server.sockets[0].getsockname()[1]
    try:
        yield fault
    finally:
        server.close()


async def _read(reader: asyncio.StreamReader) -> Asked | None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, path, _ = head[0].split(" ", 2)
    pairs = (line.split(": ", 1) for line in head[1:] if line)
    headers = {key.lower(): value for key, value in pairs}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Asked(method, path, headers, body)
