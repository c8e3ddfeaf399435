"""Pieces from the runner become chunks, by way of the parser."""

from __future__ import annotations

import time

import pytest

from olla.errors import RunnerDied
from olla.inference.reply import Asked, chunks_of
from olla.messages import ToolCall
from olla.options import SamplingParams
from olla.parsers.base import Chain, OutputParser, Verbatim
from olla.parsers.formats import PARSERS
from olla.parsers.thinking import ThinkingParser, ThinkingTags
from olla.requests import ChatChunk, DoneReason, TokenLogprob
from olla.runner.protocol import Generate, Piece
from tests.fakes import FakeRunner
from tests.inference.conftest import collect

GENERATE = Generate(1, "p", 100, SamplingParams())
ECHO = Generate(1, "p", 100, SamplingParams(), echo=True)
CALL = '<tool_call>{"name":"f","arguments":{}}</tool_call>'
TOKEN = TokenLogprob("a", b"a", -1.0)


def qwen() -> OutputParser:
    calls = PARSERS["qwen3"].calls
    assert calls is not None
    tags = ThinkingTags("<think>", "</think>")
    return Chain(ThinkingParser(tags), calls.parser(()))


async def _chunks(
    runner: FakeRunner,
    parser: OutputParser,
    message: Generate = GENERATE,
    num_dropped: int = 0,
    calls_come_last: bool = False,
) -> list[ChatChunk]:
    asked = Asked(time.monotonic_ns(), 5, num_dropped, calls_come_last)
    return await collect(chunks_of(runner, message, parser, asked))


def _runner(*reply: str | Piece) -> FakeRunner:
    runner = FakeRunner()
    runner.reply = reply
    return runner


async def test_thinking_content_and_calls_come_apart() -> None:
    runner = _runner("<think>", "a", "</think>", "\n", "b", f" {CALL}", "c")

    *pieces, last = await _chunks(runner, qwen())

    assert [(chunk.thinking, chunk.content) for chunk in pieces] == [
        ("a", ""),
        ("", "b"),
        ("", ""),
        ("", "c"),
    ]
    assert [call.name for call in pieces[2].tool_calls] == ["f"]
    assert (last.tool_calls, last.done_reason) == ((), DoneReason.STOP)


async def test_calls_may_come_in_the_last_chunk() -> None:
    chunks = await _chunks(_runner(CALL, CALL), qwen(), calls_come_last=True)

    assert [len(chunk.tool_calls) for chunk in chunks] == [2]
    assert isinstance(chunks[0].tool_calls[0], ToolCall)


async def test_what_the_parser_held_back_comes_at_the_end() -> None:
    chunks = await _chunks(_runner("a ", "<tool"), qwen())

    assert "".join(chunk.content for chunk in chunks) == "a <tool"
    assert chunks[-1].content == ""


async def test_logprobs_come_with_their_piece_even_if_nothing_else_does() -> None:
    runner = _runner(Piece(1, "<tool", [TOKEN]), Piece(1, "", [TOKEN]), Piece(1, "x", []), "")

    chunks = await _chunks(runner, qwen())

    assert [(chunk.content, len(chunk.logprobs)) for chunk in chunks] == [
        ("", 1),
        ("", 1),
        ("<toolx", 0),
        ("", 0),
    ]


async def test_an_echoed_prompt_is_not_parsed() -> None:
    runner = _runner(Piece(1, f"<think>{CALL}", [TOKEN]), "<think>a</think>b")

    first, second, _ = await _chunks(runner, qwen(), ECHO)

    assert first == ChatChunk(f"<think>{CALL}", logprobs=(TOKEN,))
    assert second == ChatChunk("b", "a")


async def test_the_last_chunk_has_every_count() -> None:
    runner = _runner("a")
    runner.ending = {"num_cached_tokens": 3, "num_truncated_tokens": 4, "stop_sequence": "."}

    last = (await _chunks(runner, Verbatim(), num_dropped=10))[-1]

    assert last.stop_sequence == "."
    assert (last.timings.num_cached_tokens, last.timings.num_truncated_tokens) == (3, 14)
    assert (last.timings.load_ns, last.timings.prompt_ns, last.timings.generation_ns) == (5, 10, 20)


@pytest.mark.parametrize(
    ("reply", "num_thinking"),
    [
        (["<think>", "a", " ", "b", "</think>", "c", "d"], 4),
        (["<thi", "nk>a", "</think>c"], 2),
        (["a", "b"], 0),
        ([Piece(1, "<think>ab", [TOKEN] * 3), Piece(1, "</think>c", [TOKEN] * 2)], 3),
        (["<think>", "a"], 2),
    ],
)
async def test_tokens_of_thinking_are_counted(reply: list[str | Piece], num_thinking: int) -> None:
    runner = _runner(*reply)
    timings = (await _chunks(runner, qwen()))[-1].timings

    assert timings.num_thinking_tokens == min(num_thinking, timings.num_tokens)


async def test_a_runner_that_dies_in_mid_reply_is_told_apart() -> None:
    runner = FakeRunner()
    chunks = chunks_of(runner, GENERATE, Verbatim(), Asked(0, 0))
    await anext(chunks)
    runner.die()

    with pytest.raises(RunnerDied, match="an error was encountered while running the model"):
        await anext(chunks)


async def test_closing_the_chunks_frees_the_engine() -> None:
    runner = FakeRunner()
    chunks = chunks_of(runner, GENERATE, Verbatim(), Asked(0, 0))
    await anext(chunks)

    await chunks.aclose()

    assert runner.num_cancelled == 1
