"""What is remembered: what was made or used last, within a number of bytes."""

from __future__ import annotations

from olla.engine.recent import Recent


def test_the_least_recently_used_goes_first() -> None:
    recent: Recent[int, str] = Recent(max_bytes=10)
    recent.put(1, "a", 5)
    recent.put(2, "b", 5)
    assert recent.get(1) == "a"

    recent.put(3, "c", 5)

    assert [recent.get(key) for key in (1, 2, 3)] == ["a", None, "c"]


def test_the_last_is_kept_however_large_it_is() -> None:
    recent: Recent[int, str] = Recent(max_bytes=10)
    recent.put(1, "a", 5)

    recent.put(2, "b", 99)
    assert [recent.get(key) for key in (1, 2)] == [None, "b"]

    recent.put(3, "c", 5)
    assert [recent.get(key) for key in (2, 3)] == [None, "c"]


def test_what_is_taken_out_makes_room() -> None:
    recent: Recent[int, str] = Recent(max_bytes=10)
    recent.put(1, "a", 5)
    recent.put(2, "b", 5)

    assert [recent.pop(2), recent.pop(2)] == ["b", None]

    recent.put(3, "c", 5)
    assert list(recent) == [1, 3]
