"""The reply that has to be a call."""

from __future__ import annotations

import json

import pytest

from olla.parsers.base import Delta
from olla.parsers.required import RequiredCall

CALL = '{"name": "weather", "arguments": {"city": "Pa\\"ris"}}'


@pytest.mark.parametrize("cut", range(len(CALL) + 1))
def test_where_the_stream_is_cut_does_not_matter(cut: int) -> None:
    parser = RequiredCall()

    delta = parser.push(CALL[:cut]) + parser.push(CALL[cut:]) + parser.finish()

    (call,) = delta.tool_calls
    assert (call.name, call.arguments, delta.content) == ("weather", {"city": 'Pa"ris'}, "")


@pytest.mark.parametrize("text", [CALL[:-1], "", "[]", json.dumps({"name": "f"})])
def test_a_reply_that_breaks_off_is_content(text: str) -> None:
    parser = RequiredCall()

    assert parser.push(text) + parser.finish() == Delta(content=text)
