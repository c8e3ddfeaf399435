"""What a reply is held to, for every way that models write calls; and that parsers read it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from olla.engine.grammar import Grammars
from olla.messages import Tool
from olla.parsers.base import OutputParser, ToolCallFormat
from olla.parsers.call_rules import ReplyGrammar
from olla.parsers.formats import PARSERS
from olla.parsers.generic import GenericCalls
from olla.parsers.harmony import HarmonyParser
from olla.parsers.reply_grammar import ReplyShape, reply_grammar
from olla.parsers.required import RequiredCall
from olla.parsers.thinking import ThinkingTags
from olla.requests import ToolChoice, ToolMode
from olla.runner.protocol import Grammar, Schema
from tests.parsers.cutting import calls, run

ARGUMENTS = {
    "type": "object",
    "properties": {"n": {"type": "integer"}},
    "required": ["n"],
    "additionalProperties": False,
}
TOOLS = (Tool("get", parameters=ARGUMENTS), Tool("get_all", parameters=ARGUMENTS))
CALLED = calls(("get", {"n": 1}))
FORMAT = {"const": [1, 2]}
THINK = ThinkingTags("<think>", "</think>")
SPECIAL = ("<special>", "<|tool_call>", "<|channel|>", "<|message|>", "<|end|>", "[TOOL_CALLS]")
HARMONY = ReplyShape(is_harmony=True)
ANALYSIS = "<|channel|>analysis<|message|>so <b>{}</b><|end|><|start|>assistant"
HARMONY_CALL = '<|channel|>commentary to=functions.get <|constrain|>json<|message|>{"n": 1}'

WRITTEN = {
    "qwen3": '<tool_call>\n{"name": "get", "arguments": {"n": 1}}\n</tool_call>',
    "qwen3-coder": (
        "<tool_call>\n<function=get>\n<parameter=n>\n1\n</parameter>\n</function>\n</tool_call>"
    ),
    "ministral": '[TOOL_CALLS]get[ARGS]{"n": 1}',
    "deepseek3": (
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get<｜tool▁sep｜>"
        '{"n": 1}<｜tool▁call▁end｜><｜tool▁calls▁end｜>'
    ),
    "olmo3": "<function_calls>get(n=1)</function_calls>",
    "functiongemma": "<start_function_call>call:get{n:1}<end_function_call>",
    "glm-4.7": "<tool_call>get\n<arg_key>n</arg_key>\n<arg_value>1</arg_value>\n</tool_call>",
    "gemma4": "<|tool_call>call:get{n:1}<tool_call|>",
    "lfm2": "<|tool_call_start|>[get(n=1)]<|tool_call_end|>",
    "cohere": (
        '<|START_ACTION|>[\n  {"tool_call_id": "0", "tool_name": "get", "parameters": {"n": 1}}\n]'
        "<|END_ACTION|>"
    ),
}
"""One call, as each family of models writes it."""

OLD_DEEPSEEK = (
    '<｜tool▁call▁begin｜>function<｜tool▁sep｜>get\n```json\n{"n": 1}\n```<｜tool▁call▁end｜>'
)
JSON_STYLES = {"qwen3", "ministral", "deepseek3", "cohere"}


@pytest.fixture(scope="module")
def grammars() -> Grammars:
    """For a vocabulary of bytes and a few special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<eos>", *SPECIAL])
    return Grammars(tokenizer, tokenizer.get_vocab_size(), [tokenizer.get_vocab()["<eos>"]])


def held(
    shape: ReplyShape,
    format: dict[str, Any] | None = None,
    tools: tuple[Tool, ...] = (),
    **choice: Any,
) -> ReplyGrammar:
    grammar = reply_grammar(shape, format, tools, ToolChoice(**choice))
    assert grammar is not None
    return grammar


def fits(grammars: Grammars, grammar: ReplyGrammar, text: str) -> bool:
    """Whether the text may be the whole reply."""
    schemas = tuple(Schema(name, json.dumps(schema)) for name, schema in grammar.schemas)
    constraint = grammars.constrain(Grammar(grammar.source, schemas, grammar.tags))
    assert constraint is not None
    tokenizer = grammars._tokenizer
    size, end = tokenizer.get_vocab_size(), tokenizer.get_vocab()["<eos>"]
    for token in tokenizer.encode(text).ids:
        if constraint.is_complete or not _allows(constraint.mask(size), token):
            return False
        constraint.accept(token)
    return constraint.is_complete or _allows(constraint.mask(size), end)


def _allows(mask: Any, token: int) -> bool:
    return bool(np.unpackbits(mask, bitorder="little")[token])


def parser_of(name: str) -> OutputParser:
    calls = PARSERS[name].calls
    assert calls is not None
    return calls.parser(TOOLS)


def format_of(name: str) -> ToolCallFormat:
    calls = PARSERS[name].calls
    assert calls is not None
    assert calls.format is not None
    return calls.format


@pytest.mark.parametrize("name", WRITTEN)
def test_text_is_free_up_to_a_call_and_the_call_is_of_a_tool(grammars: Grammars, name: str) -> None:
    call = WRITTEN[name]
    grammar = held(ReplyShape(calls=format_of(name)), tools=TOOLS)

    assert fits(grammars, grammar, "no call <special> <br> {}")
    assert fits(grammars, grammar, "")
    for reply in (call, f"I call: {call}", f"a {call}\n{call}", f"<special>{call} bye"):
        assert fits(grammars, grammar, reply), reply
        assert run(parser_of(name), [reply]).tool_calls[:1] == CALLED
    assert not fits(grammars, grammar, call.replace("get", "set"))
    assert not fits(grammars, grammar, f"{call} {call.replace('get', 'set')}")
    assert fits(grammars, grammar, call.replace("1", '"x"')) == (name not in JSON_STYLES)


def test_calls_of_old_models_of_deepseek_s_are_calls(grammars: Grammars) -> None:
    grammar = held(ReplyShape(calls=format_of("deepseek3")), tools=TOOLS)

    assert fits(grammars, grammar, OLD_DEEPSEEK)
    assert run(parser_of("deepseek3"), [OLD_DEEPSEEK]).tool_calls == CALLED


@pytest.mark.parametrize("name", WRITTEN)
def test_without_parallel_calls_the_reply_ends_with_the_first(
    grammars: Grammars, name: str
) -> None:
    call = WRITTEN[name]
    grammar = held(ReplyShape(calls=format_of(name)), tools=TOOLS, parallel=False)

    assert fits(grammars, grammar, "no call <special>")
    assert fits(grammars, grammar, f"I call: {call}")
    assert not fits(grammars, grammar, f"{call}{call}")
    assert not fits(grammars, grammar, f"{call}\nand more")


@pytest.mark.parametrize("name", WRITTEN)
def test_beside_tools_a_format_or_a_call_it_is(grammars: Grammars, name: str) -> None:
    grammar = held(ReplyShape(calls=format_of(name)), FORMAT, TOOLS)

    assert fits(grammars, grammar, "[1, 2]")
    assert fits(grammars, grammar, WRITTEN[name])
    assert not fits(grammars, grammar, "text")
    assert not fits(grammars, grammar, f"[1, 2]{WRITTEN[name]}")
    assert run(parser_of(name), ["[1, 2]"]).content == "[1, 2]"


@pytest.mark.parametrize(
    "call",
    [
        '{"name": "get", "arguments": {"n": 1}}',
        '\n{"name": "get", "parameters": {"n": 1}}',
        '[{"name": "get", "arguments": {"n": 1}}]',
    ],
)
def test_behind_a_tag_of_which_no_more_is_known_calls_are_json(
    grammars: Grammars, call: str
) -> None:
    grammar = held(ReplyShape(generic_tag="<call>"), tools=TOOLS)

    for reply in (f"<call>{call}", f"a <call>{call}</call> <call>{call}</call>"):
        assert fits(grammars, grammar, reply)
        assert run(GenericCalls("<call>", TOOLS), [reply]).tool_calls[:1] == CALLED
    assert not fits(grammars, grammar, "<call>text")
    assert fits(grammars, held(ReplyShape(generic_tag="<call>"), FORMAT, TOOLS), f"<call>{call}")
    assert fits(grammars, held(ReplyShape(generic_tag="{"), FORMAT, TOOLS), call)


@pytest.mark.parametrize(
    "shape", [ReplyShape(), ReplyShape(generic_tag="{"), HARMONY, ReplyShape(calls=None)]
)
def test_a_choice_of_calls_without_a_tag_is_free(shape: ReplyShape) -> None:
    assert reply_grammar(shape, None, TOOLS, ToolChoice()) is None
    assert reply_grammar(shape, None, (), ToolChoice()) is None


def test_only_a_choice_may_be_given_up() -> None:
    shape = ReplyShape(calls=format_of("qwen3"))

    assert held(shape, tools=TOOLS).is_optional
    assert not held(shape, FORMAT, TOOLS).is_optional
    assert not held(shape, tools=TOOLS, mode=ToolMode.REQUIRED).is_optional


@pytest.mark.parametrize(
    ("shape", "reply", "may_be"),
    [
        (ReplyShape(), "[1, 2]", True),
        (ReplyShape(), "\n[1, 2]", False),
        (ReplyShape(THINK), "[1, 2]", True),
        (ReplyShape(THINK), "<think>so [1, 3]</think>\n\n[1, 2]", True),
        (ReplyShape(THINK), "\n<think>so</think>[1, 2]", True),
        (ReplyShape(THINK), "so [1, 2]", False),
        (ReplyShape(THINK), "<think>[1, 2]", False),
        (ReplyShape(THINK), "<think>so</think>" + "\n" * 40 + "[1, 2]", False),
        (ReplyShape(THINK), "<think>so</think>no", False),
        (ReplyShape(THINK, is_open=True), "so</think> [1, 2]", True),
        (ReplyShape(THINK, is_open=True), "[1, 2]", False),
        (ReplyShape(ThinkingTags("<|c>x", "<c|>")), "<|c>x so<c|>[1, 2]", True),
        (HARMONY, f"{ANALYSIS}<|channel|>final<|message|>[1, 2]", True),
        (HARMONY, "<|channel|>final<|message|>[1, 2]", True),
        (HARMONY, "<|channel|>final<|message|>no", False),
        (HARMONY, f"{ANALYSIS}[1, 2]", False),
        (ReplyShape(is_harmony=True, is_open=True), "[1, 2]", True),
    ],
)
def test_a_format_holds_where_the_answer_begins(
    grammars: Grammars, shape: ReplyShape, reply: str, may_be: bool
) -> None:
    assert fits(grammars, held(shape, FORMAT), reply) == may_be


@pytest.mark.parametrize("thought", ["", "<think>so</think>\n"])
@pytest.mark.parametrize(("name", "may_be"), [("", True), ("get", True), ("get_all", False)])
def test_a_required_call_is_one_call_of_the_tool(
    grammars: Grammars, thought: str, name: str, may_be: bool
) -> None:
    grammar = held(ReplyShape(THINK), FORMAT, TOOLS, mode=ToolMode.REQUIRED, name=name)
    call = '{"name": "get", "arguments": {"n": 1}}'

    assert fits(grammars, grammar, thought + call) == may_be
    assert not fits(grammars, grammar, thought + call.replace("1", '"x"'))
    assert not fits(grammars, grammar, thought + "[1, 2]")
    assert run(RequiredCall(), [call]).tool_calls == CALLED


@pytest.mark.parametrize("reply", [HARMONY_CALL, ANALYSIS + HARMONY_CALL])
def test_harmony_writes_a_required_call_its_own_way(grammars: Grammars, reply: str) -> None:
    required = held(HARMONY, tools=TOOLS, mode=ToolMode.REQUIRED)

    assert fits(grammars, required, reply)
    assert fits(grammars, held(HARMONY, FORMAT, TOOLS), reply)
    assert not fits(grammars, required, reply.replace("get", "set"))
    assert not fits(grammars, required, "<|channel|>final<|message|>no")
    parsed = run(HarmonyParser(TOOLS, "<|start|>assistant"), [reply])
    assert (parsed.tool_calls, parsed.content) == (CALLED, "")
