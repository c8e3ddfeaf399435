"""Responses are kept in memory, and only so many."""

from __future__ import annotations

from typing import Any

import pytest

from olla.errors import BadInput, NotFound
from olla.server.conversations import Conversations

ITEMS = [{"role": "user", "content": "é"}]


def _response(name: str, size: int = 0) -> dict[str, Any]:
    return {"id": name, "text": "x" * size}


def _has(kept: Conversations, name: str) -> bool:
    try:
        kept.response(name)
    except NotFound:
        return False
    return True


def test_what_is_put_comes_back() -> None:
    kept = Conversations()
    kept.put(_response("a"), ITEMS)

    assert kept.items("a") == ITEMS
    assert kept.response("a") == b'{"id":"a","text":""}'


def test_the_least_recently_used_goes_first() -> None:
    kept = Conversations(max_count=2)
    for name in ("a", "b"):
        kept.put(_response(name), ITEMS)
    kept.items("a")

    kept.put(_response("c"), ITEMS)

    assert [_has(kept, name) for name in "abc"] == [True, False, True]


def test_there_are_only_so_many_bytes() -> None:
    kept = Conversations(max_bytes=300)
    for name in "abcd":
        kept.put(_response(name, 100), [])

    assert [_has(kept, name) for name in "abcd"] == [False, False, True, True]


def test_what_is_larger_than_all_room_is_not_kept_and_costs_nobody_theirs() -> None:
    kept = Conversations(max_bytes=300)
    kept.put(_response("a"), ITEMS)

    kept.put(_response("b", 1000), ITEMS)

    assert [_has(kept, name) for name in "ab"] == [True, False]


def test_deleting_makes_room() -> None:
    kept = Conversations(max_bytes=300)
    kept.put(_response("a", 200), [])
    kept.delete("a")

    kept.put(_response("b", 200), [])
    kept.put(_response("b", 200), [])

    assert _has(kept, "b")


def test_what_is_not_kept_is_told_apart_by_who_asks() -> None:
    kept = Conversations()

    with pytest.raises(BadInput, match="previous response 'a' not found"):
        kept.items("a")
    with pytest.raises(NotFound, match="response 'a' not found"):
        kept.response("a")
    with pytest.raises(NotFound, match="response 'a' not found"):
        kept.delete("a")
