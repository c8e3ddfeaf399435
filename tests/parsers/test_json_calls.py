"""JSON is read as models write it, and never so that a reply with it could not be sent."""

from __future__ import annotations

import pytest

from olla.parsers.base import NotACall
from olla.parsers.json_calls import MAX_DEPTH, read_json, read_json_calls, read_json_object


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1 ; {} ,[2]\n", [1, {}, [2]]),
        ('"a\nb"', ["a\nb"]),
        ('"\\ud800"', ["\ufffd"]),
        ("", []),
    ],
)
def test_values_may_follow_each_other(text: str, values: list[object]) -> None:
    assert list(read_json(text)) == values


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "x",
        "NaN",
        "-Infinity",
        "1e999",
        "9" * 5000,
        "[" * 100_000,
        "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1),
    ],
)
def test_what_clients_could_not_read_is_refused(text: str) -> None:
    with pytest.raises(NotACall):
        list(read_json(text))


@pytest.mark.parametrize("text", ["[]", "7", "", "{} {}"])
def test_one_object_is_one_object(text: str) -> None:
    with pytest.raises(NotACall):
        read_json_object(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "7",
        '{"arguments": {}}',
        '{"name": 7}',
        '{"name": "f", "arguments": [1]}',
        '{"name": "f", "arguments": "x"}',
    ],
)
def test_what_lacks_a_name_or_has_no_arguments_is_no_call(text: str) -> None:
    with pytest.raises(NotACall):
        read_json_calls(text)
