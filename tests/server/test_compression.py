"""Bodies that come compressed are read within limits."""

from __future__ import annotations

import sys

import pytest

from olla.errors import BadInput
from olla.server.compression import MAX_UNPACKED_BYTES, unpack

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


def pack(data: bytes) -> bytes:
    return zstd.compress(data)


TEXT = b'{"model": "m"}'
PACKED = pack(TEXT)


def test_a_frame_is_unpacked() -> None:
    assert unpack(PACKED) == TEXT


def test_a_frame_of_the_largest_size_is_unpacked() -> None:
    assert len(unpack(pack(bytes(MAX_UNPACKED_BYTES)))) == MAX_UNPACKED_BYTES


def test_a_frame_that_holds_more_is_refused() -> None:
    with pytest.raises(BadInput, match="holds more than 20 MiB"):
        unpack(pack(bytes(MAX_UNPACKED_BYTES + 1)))


def test_a_frame_with_a_large_window_is_refused() -> None:
    packed = zstd.compress(bytes(2**24), options={zstd.CompressionParameter.window_log: 24})

    with pytest.raises(BadInput, match="too much memory"):
        unpack(packed)


@pytest.mark.parametrize("cut", range(1, len(PACKED)))
def test_a_frame_that_breaks_off_is_refused(cut: int) -> None:
    with pytest.raises(BadInput, match="not one whole frame"):
        unpack(PACKED[:cut])


@pytest.mark.parametrize("more", [b"x", PACKED])
def test_nothing_may_follow_the_frame(more: bytes) -> None:
    with pytest.raises(BadInput, match="not one whole frame"):
        unpack(PACKED + more)


def test_what_is_no_frame_is_refused() -> None:
    with pytest.raises(BadInput, match="the zstd body cannot be read"):
        unpack(TEXT)
