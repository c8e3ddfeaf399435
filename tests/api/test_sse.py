"""Server-sent events on the wire."""

from __future__ import annotations

from olla.api.sse import event


def test_an_event_is_one_line_of_json_and_an_empty_one() -> None:
    assert event({"text": "a\nb"}) == b'data: {"text":"a\\nb"}\n\n'


def test_an_event_may_have_a_name() -> None:
    assert event({}, "ping") == b"event: ping\ndata: {}\n\n"
