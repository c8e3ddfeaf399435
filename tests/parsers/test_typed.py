"""Text becomes a value of the type that the tool's schema names."""

from __future__ import annotations

import pytest

from olla.messages import Tool
from olla.parsers.typed import parameters_of, typed


@pytest.mark.parametrize(
    ("text", "schema", "value"),
    [
        ("\nnull\n", {"type": "string"}, None),
        ("true", {"type": "boolean"}, True),
        ("False", {"type": ["boolean", "string"]}, False),
        ("maybe", {"type": "boolean"}, False),
        ("maybe", {"type": ["string", "boolean"]}, "maybe"),
        ("3", {"type": "integer"}, 3),
        ("3.0", {"type": "integer"}, 3),
        ("3.5", {"type": "integer"}, "3.5"),
        ("3.5", {"type": "number"}, 3.5),
        ("4.0", {"type": "number"}, 4),
        ("1e999", {"type": "number"}, "1e999"),
        ("9" * 5000, {"type": "integer"}, "9" * 5000),
        ("[1, 2]", {"type": "array"}, [1, 2]),
        ("[1", {"type": "array"}, "[1"),
        ('{"a": 1}', {"type": "object"}, {"a": 1}),
        ("{}", {"type": "array"}, "{}"),
        ("3", {"type": "string"}, "3"),
        ("3", {"anyOf": [{"type": "string"}, {"type": "integer"}]}, 3),
        ("3", {}, "3"),
        ("3", None, "3"),
        ("\n a \n\n", {"type": "string"}, " a \n"),
    ],
)
def test_text_is_read_by_its_type(text: str, schema: object, value: object) -> None:
    read = typed(text, schema)

    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize("parameters", [{}, {"properties": 7}, {"properties": {"a": 1}}])
def test_a_schema_that_says_nothing_is_none(parameters: dict[str, object]) -> None:
    assert typed("3", parameters_of("f", (Tool("f", parameters=parameters),)).get("a")) == "3"
