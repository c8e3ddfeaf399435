"""Tags are found in a stream that is cut anywhere."""

from __future__ import annotations

import pytest

from olla.parsers.tags import TagScanner, tags_of


def _scan(pieces: list[str], *tags: str) -> list[tuple[str, str]]:
    scanner = TagScanner()
    found = []
    for piece in pieces:
        scanner.push(piece)
        while (item := scanner.next(tags_of(*tags)))[1]:
            found.append(item)
        found.append(item)
    scanner.close()
    while (item := scanner.next(tags_of(*tags)))[1]:
        found.append(item)
    found.append(item)
    return found


def _joined(found: list[tuple[str, str]]) -> list[str]:
    """Text and tags in turn, with text that was cut put together again."""
    parts = [""]
    for text, tag in found:
        parts[-1] += text
        parts += [tag, ""] if tag else []
    return parts


@pytest.mark.parametrize(
    ("text", "tags", "parts"),
    [
        ("a<x>b", ["<x>"], ["a", "<x>", "b"]),
        ("<x><x>", ["<x>"], ["", "<x>", "", "<x>", ""]),
        ("<<x>", ["<x>"], ["<", "<x>", ""]),
        ("a[b[ARGS]", ["[", "[ARGS]"], ["a", "[", "b", "[ARGS]", ""]),
        ("xaz xay", ["xay", "a"], ["x", "a", "z ", "xay", ""]),
        ("xa", ["xay", "a"], ["x", "a", ""]),
        ("no tag", [], ["no tag"]),
        ("<x", ["<x>"], ["<x"]),
    ],
)
def test_the_leftmost_tag_counts_and_of_those_the_longest(
    text: str, tags: list[str], parts: list[str]
) -> None:
    assert _joined(_scan([text], *tags)) == parts
    assert _joined(_scan(list(text), *tags)) == parts
    for cut in range(len(text)):
        assert _joined(_scan([text[:cut], text[cut:]], *tags)) == parts


def test_no_more_is_held_back_than_may_be_a_tag() -> None:
    scanner = TagScanner()
    scanner.push("abc<t")

    assert scanner.next(tags_of("<tool>")) == ("abc", "")
