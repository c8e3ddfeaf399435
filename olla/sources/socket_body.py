"""SocketBody: the rest of a body straight from its socket, for a thread to read.

aiohttp asks for the body and reads its head, and so has seen to redirects, proxies and
credentials. Where what follows is the body as it is (no TLS, no chunks), it need not pass the
event loop, which would copy it twice and keep others waiting. Knows nothing of blobs.
"""

from __future__ import annotations

import socket
import struct
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress

from aiohttp import ClientError, ClientResponse, hdrs

from olla.errors import SourceBroke

_SOON = struct.pack("@ll", 0, 200_000)  # 0.2 s, so that slow transfers are seen to move


class SocketBody:
    """Made by `take_body`; closed by whoever took it."""

    def __init__(
        self, host: str, begun: Iterable[bytes], rest: socket.socket, stall_s: float
    ) -> None:
        self._host = host
        self._begun = deque(memoryview(chunk) for chunk in begun)
        self._socket = rest
        self._stall_s = stall_s

    def read_into(self, buffer: memoryview) -> int:
        """Fill `buffer`, or its front with what comes soon; how many bytes, at least one.

        Raises:
            SourceBroke: the line was cut, or nothing came for too long.
        """
        if self._begun:
            return self._read_begun(buffer)
        # One call for all of it: a thread of low priority must not need Python's lock often,
        # since whoever waits for that lock waits for the thread to have its turn.
        deadline = time.monotonic() + self._stall_s
        while True:
            try:
                num_bytes = self._socket.recv_into(buffer, 0, socket.MSG_WAITALL)
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise SourceBroke(f"{self._host}: no data came for too long") from error
            except OSError as error:
                raise SourceBroke(f"{self._host}: {error.strerror or error}") from error
            else:
                if not num_bytes:
                    raise SourceBroke(f"{self._host} closed the connection early")
                return num_bytes

    def _read_begun(self, buffer: memoryview) -> int:
        chunk = self._begun.popleft()
        num_bytes = min(len(chunk), len(buffer))
        buffer[:num_bytes] = chunk[:num_bytes]
        if num_bytes < len(chunk):
            self._begun.appendleft(chunk[num_bytes:])
        return num_bytes

    def interrupt(self) -> None:
        """Have whoever reads find the line cut, at once."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._socket.close()


def take_body(response: ClientResponse, stall_s: float) -> SocketBody | None:
    """The body of an answer of which nothing was read yet; the answer is then spent.

    Returns:
        None where the socket's bytes are not the body's, or where all of it is here already.
    """
    connection = response.connection
    if connection is None or connection.transport is None or connection.protocol is None:
        return None
    transport = connection.transport
    if transport.get_extra_info("sslcontext") or hdrs.TRANSFER_ENCODING in response.headers:
        return None
    try:
        begun = list(iter(response.content.read_nowait, b""))  # reading makes room for more
    except (ClientError, OSError):
        return None  # the usual reader says what is wrong
    connection.protocol.pause_reading()
    rest = transport.get_extra_info("socket").dup()
    rest.setblocking(True)
    rest.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _SOON)
    return SocketBody(response.url.host or "", begun, rest, stall_s)
