"""Lines of a body, with the time at which each was there."""

from __future__ import annotations

import pytest

from olla.client.arrivals import lines_of
from olla.errors import ClientError

BODY = b"3;a=b\r\nab\n\r\n6\r\ncd\nef\n\r\n3\r\ngh\n\r\n0\r\n\r\n"
LINES = [b"ab\n", b"cd\n", b"ef\n", b"gh\n"]


@pytest.mark.parametrize("cut", range(1, len(BODY)))
def test_where_a_chunked_body_is_cut_does_not_matter(cut: int) -> None:
    lines = lines_of([(1.0, BODY[:cut]), (2.0, BODY[cut:])], is_chunked=True)

    assert [line for _, line in lines] == LINES
    # A chunk's lines are there when the last byte of its data is.
    moments = [1.0 if end <= cut else 2.0 for end in (10, 21, 21, 29)]
    assert [moment for moment, _ in lines] == moments


def test_a_body_without_chunks_is_split_as_it_came() -> None:
    arrivals = [(1.0, b"a\nb"), (2.0, b"c\nd")]

    assert lines_of(arrivals, is_chunked=False) == [(1.0, b"a\n"), (2.0, b"bc\n"), (2.0, b"d")]
    assert lines_of([], is_chunked=False) == []


@pytest.mark.parametrize("length", range(len(BODY) - 4))
def test_a_chunked_body_that_breaks_off_is_an_error(length: int) -> None:
    with pytest.raises(ClientError, match="breaks off"):
        lines_of([(1.0, BODY[:length])], is_chunked=True)
