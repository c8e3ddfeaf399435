"""The body of a streamed reply as it came off the connection, and its lines, worked out afterwards.

A read and a look at the clock are all that is done while the stream runs: HTTPResponse takes its
chunks apart in some ten calls a piece, which a server on the same CPUs would miss.
"""

from __future__ import annotations

import io
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate

from olla.errors import ClientError

Arrivals = Sequence[tuple[float, bytes]]
"""What each read gave, and when."""


def lines_of(arrivals: Arrivals, *, is_chunked: bool) -> list[tuple[float, bytes]]:
    """The lines of a body, each with the time at which its end came.

    Raises:
        ClientError: the body breaks off.
    """
    lines: list[tuple[float, bytes]] = []
    rest = b""
    for moment, data in _chunks(arrivals) if is_chunked else arrivals:
        *whole, rest = (rest + data).split(b"\n")
        lines += [(moment, line + b"\n") for line in whole]
    return [*lines, (arrivals[-1][0], rest)] if rest else lines


def _chunks(arrivals: Arrivals) -> Iterator[tuple[float, bytes]]:
    """The data of each chunk (RFC 9112, section 7.1), and when the last of it came."""
    ends = list(accumulate(len(data) for _, data in arrivals))
    stream = io.BytesIO(b"".join(data for _, data in arrivals))
    while size := _size(stream.readline()):
        data = stream.read(size)
        if len(data) < size:
            raise ClientError("the server's reply breaks off")
        yield arrivals[bisect_left(ends, stream.tell())][0], data
        stream.readline()


def _size(line: bytes) -> int:
    try:
        return int(line.partition(b";")[0], 16)
    except ValueError as error:
        raise ClientError("the server's reply breaks off") from error
