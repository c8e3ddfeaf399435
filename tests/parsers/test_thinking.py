"""Thinking is split from content (the vectors of spec/modelfile.md 10.3, and more)."""

from __future__ import annotations

import pytest

from olla.parsers.base import Delta
from olla.parsers.thinking import ThinkingParser, ThinkingTags
from tests.parsers.cutting import parse, run

THINK = ThinkingTags("<think>", "</think>")
QWEN = ThinkingTags("<think>", "</think>", ended_by=("<tool_call>",))
GEMMA = ThinkingTags("<|channel>thought", "<channel|>", is_anywhere=True)


@pytest.mark.parametrize(
    ("pieces", "thinking", "content"),
    [
        (["<th", "ink>", "  a", "b</thi", "nk>", "\n\nc"], "ab", "c"),
        (["\n hello"], "", "\n hello"),
        (["<think>a</think>", " b <think>x</think>"], "a", "b <think>x</think>"),
    ],
)
def test_the_vectors(pieces: list[str], thinking: str, content: str) -> None:
    assert run(ThinkingParser(THINK), pieces) == Delta(thinking, content)


@pytest.mark.parametrize(
    ("tags", "starts_inside", "reply", "thinking", "content"),
    [
        (THINK, True, "a</think>b", "a", "b"),
        (THINK, True, "\n<think>\na \n</think>\n\nb", "a", "b"),
        (THINK, True, "a <think> b</think>c", "a <think> b", "c"),
        (THINK, True, "never closed ", "never closed ", ""),
        (THINK, False, "<think>never closed</thi", "never closed</thi", ""),
        (THINK, False, "<think></think>b", "", "b"),
        (THINK, False, " <thin", "", " <thin"),
        (THINK, False, "a<think>b</think>", "", "a<think>b</think>"),
        (THINK, False, " \n ", "", " \n "),
        (THINK, False, "", "", ""),
        (THINK, False, "<think>a b\n c</think> d e ", "a b\n c", "d e "),
        (QWEN, True, "a\n<tool_call>x", "a", "<tool_call>x"),
        (QWEN, False, "<tool_call>x</think>", "", "<tool_call>x</think>"),
        (
            GEMMA,
            False,
            "<|channel>thought\na<channel|>b<|channel>thought\nc<channel|>d",
            "ac",
            "bd",
        ),
        (GEMMA, False, "b <|channel>thought\nc<channel|>", "c", "b "),
        (THINK, False, "<think>é 世界 🙂</think>ñ", "é 世界 🙂", "ñ"),
    ],
)
def test_where_the_stream_is_cut_does_not_matter(
    tags: ThinkingTags, starts_inside: bool, reply: str, thinking: str, content: str
) -> None:
    parsed = parse(lambda: ThinkingParser(tags, starts_inside=starts_inside), reply)

    assert parsed == Delta(thinking, content)


def test_thinking_comes_before_it_is_complete() -> None:
    parser = ThinkingParser(THINK)

    assert parser.push("<think>one two") == Delta(thinking="one two")


def test_what_may_be_a_tag_is_held_back() -> None:
    parser = ThinkingParser(THINK, starts_inside=True)

    assert parser.push("one\n</th") == Delta(thinking="one")
    assert parser.push("e") == Delta(thinking="\n</the")
