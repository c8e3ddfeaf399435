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
from tests.parsers.cutting import TOOLS, calls, run

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


@pytest.mark.parametrize("name", [*PARSERS, *BY_TEMPLATE])
def test_every_named_parser_gives_back_plain_text(name: str) -> None:
    assert run(_choose(name).parser, ["Hello ", "there."]) == Delta(content="Hello there.")


def test_an_unknown_parser_is_refused_with_those_there_are() -> None:
    with pytest.raises(BadInput, match='unknown parser "x"; PARSER may be one of: cogito, cohere'):
        _choose("x")


@pytest.mark.parametrize(
    ("context", "close"),
    [
        ({"template": QWEN, "think": True}, "</think>"),
        ({"template": QWEN, "prompt": "<think>"}, "</think>"),
        ({"template": QWEN, "think": False}, ""),
        ({"parser": "qwen3"}, ""),
        ({"parser": "harmony"}, "<|channel|>final<|message|>"),
        ({}, ""),
    ],
)
def test_the_answer_begins_behind_the_thinking(context: dict[str, Any], close: str) -> None:
    assert _choose(**context).thinking_close == close


def test_the_format_of_calls_is_told_where_they_are_read() -> None:
    format_ = _choose(template=QWEN, tools=TOOLS).tool_call_format

    assert format_ is not None
    assert format_.style is CallStyle.JSON_ARGUMENTS
    assert _choose(template=QWEN).tool_call_format is None
    assert _choose(go_tags=GoTags(tool="{"), tools=TOOLS).tool_call_format is None


def test_the_tags_that_the_parser_reads_are_told() -> None:
    shown = _choose("ministral").special_tokens

    assert {"[THINK]", "[/THINK]", "[TOOL_CALLS]", "[ARGS]"} <= set(shown)
    assert "<|channel>" in _choose("gemma4").special_tokens
    assert _choose(template=QWEN).special_tokens == ()
