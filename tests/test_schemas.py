"""Schemas that an engine may be asked to compile."""

from __future__ import annotations

import re
from typing import Any

import pytest

from olla.errors import BadInput
from olla.messages import Tool
from olla.schemas import check_schemas


def nested(depth: int) -> dict[str, Any]:
    return {"not": nested(depth - 1)} if depth > 1 else {}


@pytest.mark.parametrize(
    "schema",
    [
        {},
        nested(64),
        {"const": "x" * 130_000},
        {"$defs": {"a": {"type": "integer"}, "b": True}},
        {"properties": {f"p{n}": {} for n in range(1000)}},
        {"properties": {"price": {"multipleOf": 0.01}, "number": {"multipleOf": 10_000}}},
        {"properties": {"a": {"multipleOf": 9973}, "b": {"multipleOf": 9967}}},
        {"enum": [{"multipleOf": True}]},
    ],
)
def test_what_is_small_enough_passes(schema: dict[str, Any]) -> None:
    check_schemas(schema, (Tool("f", parameters=schema),))


@pytest.mark.parametrize(
    ("schema", "error"),
    [
        (nested(65), "is nested more than 64 deep; flatten it"),
        ({"const": "x" * 2**17}, "is longer than 128 KiB; shorten it"),
        ({"const": "é" * 2**16}, "is longer than 128 KiB; shorten it"),
        ({"properties": {f"p{n}": {} for n in range(1001)}}, "an object of more than 1000 prop"),
        ({"items": [{"multipleOf": 10**7}]}, 'has a "multipleOf" above 10000; leave it out'),
        ({"multipleOf": 1e300}, 'has a "multipleOf" above 10000'),
        ({"multipleOf": 0.99999}, 'has a "multipleOf" above 10000'),
        ({"allOf": [{"multipleOf": 9973}, {"multipleOf": 9967}]}, 'has a "multipleOf" above'),
    ],
)
def test_what_would_take_too_long_is_refused_by_name(schema: dict[str, Any], error: str) -> None:
    with pytest.raises(BadInput, match=f"^the format .*{error}"):
        check_schemas(schema)
    with pytest.raises(BadInput, match=f'^the parameters of the tool "f" .*{error}'):
        check_schemas(None, (Tool("g"), Tool("f", parameters=schema)))


@pytest.mark.parametrize("key", ["$defs", "definitions"])
@pytest.mark.parametrize("value", [[1], {"a": 1}, "a", None])
def test_definitions_are_schemas(key: str, value: object) -> None:
    with pytest.raises(BadInput, match=f'^"{re.escape(key)}" in the format must be'):
        check_schemas({key: value})


def test_a_tool_takes_an_object() -> None:
    with pytest.raises(BadInput, match='the parameters of the tool "f" must be of the type "obj'):
        check_schemas(None, (Tool("f", parameters={"type": "string"}),))


def test_all_schemas_together_have_a_limit() -> None:
    large = Tool("f", parameters={"const": "x" * 120_000})

    check_schemas(None, (large,) * 8)
    with pytest.raises(BadInput, match="longer than 1024 KiB together"):
        check_schemas({"const": "x" * 120_000}, (large,) * 8)
