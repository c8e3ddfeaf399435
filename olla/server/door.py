"""The door: how many connections may be open at once. Those past it are told so and closed."""

from __future__ import annotations

import asyncio
from typing import cast

from aiohttp import web

_BODY = b'{"error":"too many connections are open, please try again later"}'
_REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n"
    b"Retry-After: 1\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(_BODY), _BODY)
)


class Door:
    """What is asked for the protocol of each connection that is accepted."""

    def __init__(self, server: web.Server, max_connections: int) -> None:
        self._server = server
        self._max_connections = max_connections

    def __call__(self) -> asyncio.Protocol:
        if len(self._server.connections) < self._max_connections:
            return self._server()
        return _Refusal()


class _Refusal(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        writing = cast(asyncio.Transport, transport)
        writing.write(_REFUSAL)
        writing.close()
