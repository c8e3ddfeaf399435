"""Calls that are all of the reply, as Llama 3 writes them."""

from __future__ import annotations

import pytest

from olla.parsers.base import Delta
from olla.parsers.llama3 import LlamaCalls
from tests.parsers.cutting import TOOLS, calls, parse

CALL = '{"name": "get", "parameters": {"a": "} {"}}'
TWO = calls(("get", {"a": "} {"}), ("get", {"a": "} {"}))


@pytest.mark.parametrize(
    ("reply", "parsed"),
    [
        (CALL, Delta(tool_calls=TWO[:1])),
        (f"\n{CALL}; {CALL}\n", Delta(tool_calls=TWO)),
        (f"<|python_tag|>{CALL}\n<|python_tag|>{CALL}", Delta(tool_calls=TWO)),
        (f"ok <|python_tag|>{CALL}", Delta(content="ok", tool_calls=TWO[:1])),
        (f"ok {CALL}", Delta(content=f"ok {CALL}")),
        ('{"name": "Bob", "parameters": {}}!', Delta(content='{"name": "Bob", "parameters": {}}!')),
        (' {"a": [1]} {"b": 2}', Delta(content=' {"a": [1]} {"b": 2}')),
        ('{"name": "get", "par', Delta(content='{"name": "get", "par')),
        ("<|python_tag|>print([1, 2]) # x", Delta(content="print([1, 2]) # x")),
        (f"{CALL} and more", Delta(content="and more", tool_calls=TWO[:1])),
        ("plain text\n", Delta(content="plain text\n")),
    ],
)
def test_calls_are_read_wherever_the_stream_is_cut(reply: str, parsed: Delta) -> None:
    assert parse(lambda: LlamaCalls(TOOLS), reply) == parsed
