"""Calls of a model of which only the tag is known (the vectors of spec/modelfile.md 10.4)."""

from __future__ import annotations

import time

import pytest

from olla.parsers.base import Delta
from olla.parsers.generic import GenericCalls
from tests.parsers.cutting import TOOLS, calls, parse, run

CASES = [
    (
        "<tool_call>",
        'ok <tool_call>{"name":"get_weather","arguments":{"c":"X"}}</tool_call>',
        Delta(content="ok ", tool_calls=calls(("get_weather", {"c": "X"}))),
    ),
    (
        "<tool_call>",
        '<tool_call>{"arguments":{"c":1},"name":"get"}',
        Delta(tool_calls=calls(("get", {"c": 1}))),
    ),
    (
        "{",
        '{"name":"get_weather","parameters":{}}',
        Delta(tool_calls=calls(("get_weather", {}))),
    ),
    ("{", 'hello {"name":"get"}', Delta(content='hello {"name":"get"}')),
    ("{", '{"x":1}', Delta(content='{"x":1}')),
    ("{", ' {"x":1} and {"name":"get"}', Delta(content=' {"x":1} and {"name":"get"}')),
    ("{", '\n{"name":"get","arg', Delta(content='\n{"name":"get","arg')),
    ("{", '{"x":"get"}', Delta(content='{"x":"get"}')),
    ("{", "  ", Delta(content="  ")),
    ("[", "[special]", Delta(content="[special]")),
    ("[", "[1, [2]] x", Delta(content="[1, [2]] x")),
    ("[", '[{"name":"get","arguments":{"a":[1]}}]', Delta(tool_calls=calls(("get", {"a": [1]})))),
    (
        "[TOOL_CALLS]",
        '[TOOL_CALLS] [{"name":"get","arguments":{}},{"name":"get","arguments":{"a":2}}]',
        Delta(tool_calls=calls(("get", {}), ("get", {"a": 2}))),
    ),
    (
        "<call>",
        '<call>get_weather {"city": "get } <call>"}',
        Delta(tool_calls=calls(("get_weather", {"city": "get } <call>"}))),
    ),
    ("<call>", '<call>{"get": {"a": 1}}', Delta(tool_calls=calls(("get", {"a": 1})))),
    (
        "<call>",
        '<call>{"tool_calls": [{"name": "get", "arguments": "{\\"a\\": 1}"}]}',
        Delta(tool_calls=calls(("get", {"a": 1}))),
    ),
    (
        "<call>",
        '<call>{"name": "get_weather", "arguments": {"city": "get"}}',
        Delta(tool_calls=calls(("get_weather", {"city": "get"}))),
    ),
    ("<call>", "a <call>nothing of use", Delta(content="a nothing of use")),
    ("<call>", '<call>{"name": "other", "arguments": {}} x', None),
    (
        "<call>",
        '<call>{"name":"get","arguments":{}} {"name":"ge',
        Delta(content='{"name":"ge', tool_calls=calls(("get", {}))),
    ),
]


@pytest.mark.parametrize(("tag", "reply", "parsed"), CASES)
def test_calls_are_found_wherever_the_stream_is_cut(
    tag: str, reply: str, parsed: Delta | None
) -> None:
    expected = parsed or Delta(content=reply.removeprefix(tag))

    assert parse(lambda: GenericCalls(tag, TOOLS), reply) == expected


def test_a_call_comes_as_soon_as_it_is_complete() -> None:
    parser = GenericCalls("[", TOOLS)

    assert not parser.push('[{"name":"get","arguments":{}')
    assert parser.push("}").tool_calls[0].name == "get"


@pytest.mark.parametrize("size", [5, 200_000])
@pytest.mark.parametrize("tag", ["<call>", "{", "["])
def test_long_replies_take_time_in_proportion(tag: str, size: int) -> None:
    body = tag + '{"a": [{}], "b": "x"} get ' * 2_000 + '{"' + "x" * 100_000
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    started = time.process_time()

    run(GenericCalls(tag, TOOLS), pieces)

    assert time.process_time() - started < 10
