"""Which parser a reply gets, and where it begins."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from olla.errors import BadInput
from olla.parsers.base import CallStyle, Delta
from olla.parsers.choose import Choice, GoTags, ReplyContext, choose
from olla.parsers.formats import BY_TEMPLATE, PARSERS
from olla.registry.manifest import ModelConfig
from olla.registry.model import Model
from olla.requests import ToolChoice, ToolMode
from tests.parsers.cutting import TOOLS, calls, run

REQUIRED = ToolChoice(ToolMode.REQUIRED)
QWEN = "<think></think> <tool_call>"
CALL = '<tool_call>{"name":"get","arguments":{}}</tool_call>'
THOUGHT = "<think>a</think>b"
SPLIT = Delta("a", "b")
WHOLE = Delta(content=THOUGHT)
CALLED = Delta(tool_calls=calls(("get", {})))


@dataclass
class FakeModel:
    config: ModelConfig = field(default_factory=ModelConfig)
    architecture: str = "llama"


def _choose(
    parser: str = "", architecture: str = "", go_tags: GoTags | None = None, **context: Any
) -> Choice:
    model = FakeModel(ModelConfig(parser=parser), architecture)
    known = ReplyContext(**({"prompt": "", "template": ""} | context))
    return choose(cast(Model, model), known, go_tags)


@pytest.mark.parametrize(
    ("context", "reply", "parsed"),
    [
        ({"template": QWEN, "think": True}, THOUGHT, SPLIT),
        ({"template": QWEN, "think": "high"}, THOUGHT, SPLIT),
        ({"template": QWEN, "think": False}, THOUGHT, WHOLE),
        ({"template": QWEN}, THOUGHT, WHOLE),
        ({"template": "", "think": True}, THOUGHT, WHOLE),
        ({"template": QWEN, "prompt": "x<think>\n"}, "a</think>b", SPLIT),
        ({"template": QWEN, "prompt": "<think>\n\n</think>\n\n"}, THOUGHT, WHOLE),
        ({"template": QWEN, "tools": TOOLS}, CALL, CALLED),
        ({"template": QWEN}, CALL, Delta(content=CALL)),
        ({"parser": "qwen3"}, CALL, CALLED),
        ({"parser": "qwen3", "think": False}, THOUGHT, SPLIT),
        ({"parser": "passthrough", "template": QWEN, "think": True}, THOUGHT, WHOLE),
        ({"parser": "glimmer", "template": QWEN, "think": True}, THOUGHT, SPLIT),
        ({"parser": "qwen3", "think": True, "prompt": "<think>"}, f"a {CALL}", None),
        ({"template": "<|START_THINKING|>"}, "<|START_THINKING|>a<|END_THINKING|>b", SPLIT),
        ({"go_tags": GoTags(("<think>", "</think>")), "think": True}, THOUGHT, SPLIT),
        ({"go_tags": GoTags(("<think>", "</think>"))}, THOUGHT, WHOLE),
        ({"go_tags": GoTags(tool="{"), "tools": TOOLS}, '{"name":"get","arguments":{}}', CALLED),
        ({"go_tags": GoTags(tool="{")}, "{}", Delta(content="{}")),
        ({"go_tags": GoTags()}, THOUGHT, WHOLE),
        (
            {"architecture": "gptoss"},
            "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b",
            SPLIT,
        ),
        ({"template": "<|start|><|channel|>"}, "<|channel|>final<|message|>b", Delta(content="b")),
    ],
)
def test_the_parser_follows_the_model_and_what_is_asked(
    context: dict[str, Any], reply: str, parsed: Delta | None
) -> None:
    expected = parsed or Delta("a", tool_calls=CALLED.tool_calls)

    assert run(_choose(**context).parser, [reply]) == expected


@pytest.mark.parametrize("name", sorted([*PARSERS, *BY_TEMPLATE]))
def test_every_named_parser_gives_back_plain_text(name: str) -> None:
    assert run(_choose(name).parser, ["Hello ", "there."]) == Delta(content="Hello there.")


def test_an_unknown_parser_is_refused_with_those_there_are() -> None:
    with pytest.raises(BadInput, match='unknown parser "x"; PARSER may be one of: cogito, cohere'):
        _choose("x")


@pytest.mark.parametrize(
    ("context", "closing", "is_open"),
    [
        ({"template": QWEN, "think": True}, "</think>", False),
        ({"template": QWEN, "prompt": "<think>"}, "</think>", True),
        ({"template": QWEN, "think": False}, "", False),
        ({"parser": "qwen3"}, "", False),
        ({"parser": "qwen3", "tool_choice": REQUIRED, "think": True}, "</think>", False),
        ({}, "", False),
    ],
)
def test_it_is_told_what_comes_before_the_answer(
    context: dict[str, Any], closing: str, is_open: bool
) -> None:
    shape = _choose(**context).shape

    assert (shape.thinking.closing if shape.thinking else "", shape.is_open) == (closing, is_open)


def test_how_calls_are_written_is_told_where_they_are_read() -> None:
    calls = _choose(template=QWEN, tools=TOOLS).shape.calls

    assert calls is not None
    assert calls.style is CallStyle.JSON_ARGUMENTS
    assert _choose(template=QWEN).shape.calls is None
    assert _choose(go_tags=GoTags(tool="<c>"), tools=TOOLS).shape.generic_tag == "<c>"


@pytest.mark.parametrize(
    ("prompt", "is_open"),
    [
        ("", False),
        ("<|start|>assistant", False),
        ("<|start|>assistant<|channel|>final<|message|>", True),
        ("<|start|>assistant<|channel|>final<|message|>a<|end|>", False),
    ],
)
def test_a_harmony_reply_may_go_on_with_a_message(prompt: str, is_open: bool) -> None:
    shape = _choose("harmony", prompt=prompt).shape

    assert (shape.is_harmony, shape.is_open) == (True, is_open)


def test_a_message_that_is_begun_cannot_become_a_call() -> None:
    with pytest.raises(BadInput, match="cannot become a call any more"):
        _choose("harmony", prompt="<|start|>assistant<|message|>", tool_choice=REQUIRED)


@pytest.mark.parametrize("parallel", [True, False])
def test_without_parallel_calls_the_first_is_the_only_one(parallel: bool) -> None:
    choice = ToolChoice(parallel=parallel)
    parser = _choose("qwen3", tools=TOOLS, tool_choice=choice).parser

    found = run(parser, [f"a{CALL}{CALL}b"])

    assert len(found.tool_calls) == (2 if parallel else 1)
    assert found.content == "ab"


def test_the_tags_that_the_parser_reads_are_told() -> None:
    shown = _choose("ministral").special_tokens

    assert {"[THINK]", "[/THINK]", "[TOOL_CALLS]", "[ARGS]"} <= set(shown)
    assert "<|channel>" in _choose("gemma4").special_tokens
    assert _choose(template=QWEN).special_tokens == ()
