"""Messages on channels become thinking, content and calls."""

from __future__ import annotations

import time

import pytest

from olla.messages import Tool
from olla.parsers.base import Delta
from olla.parsers.harmony import HarmonyParser
from tests.parsers.cutting import TOOLS, calls, parse, run

PROMPT = "<|start|>user<|message|>Hi<|end|><|start|>assistant"
THOUGHT = "<|channel|>analysis<|message|>Hm, 2 < 3.<|end|>"
FINAL = "<|start|>assistant<|channel|>final<|message|>Hé\n<|return|>"
CALL = (
    "<|start|>assistant<|channel|>commentary to=functions.get <|constrain|>json<|message|>"
    '{"a": "<|call|> }"}<|call|>'
)
GET = calls(("get", {"a": "<|call|> }"}))


@pytest.mark.parametrize(
    ("prompt", "reply", "parsed"),
    [
        (PROMPT, THOUGHT + FINAL, Delta("Hm, 2 < 3.", "Hé\n")),
        (PROMPT, THOUGHT + CALL, Delta("Hm, 2 < 3.", tool_calls=GET)),
        (PROMPT, CALL.removesuffix("<|call|>").removeprefix("<|start|>assistant"), None),
        (PROMPT, THOUGHT + CALL + CALL, Delta("Hm, 2 < 3.", tool_calls=GET * 2)),
        (
            PROMPT,
            "<|channel|>commentary<|message|>Let me see.<|end|>" + CALL,
            Delta(content="Let me see.", tool_calls=GET),
        ),
        (
            PROMPT,
            ' to=functions.get<|channel|>commentary json<|message|>{"a": "<|call|> }"}<|call|>',
            Delta(tool_calls=GET),
        ),
        (PROMPT, "The plain answer", Delta(content="The plain answer")),
        (PROMPT, "to", Delta(content="to")),
        (PROMPT, "", Delta()),
        (PROMPT + "<|channel|>final<|message|>", "Hi<|return|>", Delta(content="Hi")),
        (PROMPT + "<|channel|>analysis<|message|>", "a<|end|>" + FINAL, Delta("a", "Hé\n")),
        ("Hi", "Hello <|", Delta(content="Hello <|")),
        (PROMPT, THOUGHT + "<|start|>assistant<|chan", Delta("Hm, 2 < 3.")),
        (
            PROMPT,
            "<|channel|>commentary to=functions.get<|message|>oh no<|call|>",
            Delta(content="oh no"),
        ),
        (
            PROMPT,
            '<|channel|>commentary to=functions.get<|message|>{"a": 1<|call|>',
            Delta(content='{"a": 1'),
        ),
        (PROMPT, "<|channel|>analysis to=python<|message|>x<|call|>", Delta("x")),
    ],
)
def test_replies_are_read_wherever_the_stream_is_cut(
    prompt: str, reply: str, parsed: Delta | None
) -> None:
    expected = Delta(tool_calls=GET) if parsed is None else parsed

    assert parse(lambda: HarmonyParser(TOOLS, prompt), reply) == expected


@pytest.mark.parametrize(
    ("called", "name"),
    [("get_it_now", "get-it.now"), ("get_it_now_2", "get it-now"), ("unknown", "unknown")],
)
def test_names_are_mapped_back_to_the_tools(called: str, name: str) -> None:
    tools = (Tool("get-it.now"), Tool("get it-now"))
    reply = f"<|channel|>commentary to=functions.{called}<|message|>{{}}<|call|>"

    assert parse(lambda: HarmonyParser(tools, PROMPT), reply).tool_calls == calls((name, {}))


@pytest.mark.parametrize("size", [5, 200_000])
def test_long_replies_take_time_in_proportion(size: int) -> None:
    body = (THOUGHT + CALL) * 1_000 + "<|start|>" + "x" * 20_000
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    started = time.process_time()

    run(HarmonyParser(TOOLS, PROMPT), pieces)

    assert time.process_time() - started < 10
