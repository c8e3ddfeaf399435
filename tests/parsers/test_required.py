"""A required call: its schema, and the reply that matches it."""

from __future__ import annotations

import json

import pytest

from olla.errors import BadInput
from olla.messages import Tool
from olla.parsers.base import Delta
from olla.parsers.required import RequiredCall, call_schema

CITY = {"properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER, CLOCK = Tool("weather", parameters=CITY), Tool("clock")
CALL = '{"name": "weather", "arguments": {"city": "Pa\\"ris"}}'


def test_a_named_call_is_of_that_tool_alone() -> None:
    schema = call_schema((WEATHER, CLOCK), "weather")

    assert schema["properties"]["name"] == {"const": "weather"}
    assert schema["properties"]["arguments"] == {"type": "object", **CITY}


def test_a_call_of_any_tool_is_one_of_them() -> None:
    calls = call_schema((WEATHER, CLOCK))["anyOf"]

    assert [call["properties"]["name"]["const"] for call in calls] == ["weather", "clock"]


def test_definitions_are_where_references_look_for_them() -> None:
    tool = Tool("f", parameters={"$defs": {"X": {"enum": [1]}}, "properties": {}})

    schema = call_schema((tool, WEATHER))

    assert schema["$defs"] == {"X": {"enum": [1]}}
    assert "$defs" not in schema["anyOf"][0]["properties"]["arguments"]


def test_tools_that_define_one_name_differently_are_refused() -> None:
    tools = [Tool(name, parameters={"$defs": {"X": {"const": name}}}) for name in "fg"]

    with pytest.raises(BadInput, match='define "X" twice'):
        call_schema(tuple(tools))


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
