"""A reply as blocks: in order, never overlapping, the same however it is cut."""

from __future__ import annotations

import pytest

from olla.api.blocks import Block, BlockKind, BlockWriter, Move, Step
from olla.messages import ToolCall
from olla.requests import ChatChunk, DoneReason, TokenLogprob

CALL = ToolCall("f", {"x": 1}, "c1")
TOKEN = TokenLogprob("a", b"a", -0.5)
DONE = ChatChunk(done_reason=DoneReason.STOP)


def _moves(*chunks: ChatChunk) -> tuple[list[Move], list[Block]]:
    writer = BlockWriter()
    moves = [move for chunk in chunks for move in writer.push(chunk)]
    return [*moves, *writer.finish()], writer.blocks


@pytest.mark.parametrize("size", range(1, 8))
def test_blocks_are_the_same_however_texts_are_cut(size: int) -> None:
    thinking, text = "I wonder", "It is so."
    thoughts = [ChatChunk(thinking=thinking[i : i + size]) for i in range(0, len(thinking), size)]
    said = [ChatChunk(content=text[i : i + size]) for i in range(0, len(text), size)]

    _, blocks = _moves(*thoughts, *said, ChatChunk(tool_calls=(CALL,)), DONE)

    assert blocks == [
        Block(BlockKind.THINKING, thinking),
        Block(BlockKind.TEXT, text),
        Block(BlockKind.CALL, call=CALL),
    ]


def test_each_block_ends_before_the_next_starts() -> None:
    chunks = [
        ChatChunk(thinking="a", content="b", tool_calls=(CALL, CALL)),
        ChatChunk(content="c"),
        ChatChunk(thinking="d"),
        ChatChunk(content="e"),
        DONE,
    ]

    moves, blocks = _moves(*chunks)

    order = {Step.START: 0, Step.DELTA: 1, Step.END: 2}
    places = [(move.index, order[move.step]) for move in moves]
    assert places == sorted(places)
    assert len(blocks) == 7
    for index, block in enumerate(blocks):
        mine = [move for move in moves if move.index == index]
        assert [move.step for move in mine] == [Step.START, Step.DELTA, Step.END]
        assert mine[-1].block == block


def test_deltas_add_up_to_the_block() -> None:
    moves, _ = _moves(ChatChunk(content="He"), ChatChunk(content="llo"), DONE)

    assert [move.block.text for move in moves] == ["", "He", "llo", "Hello"]


def test_nothing_said_is_no_block() -> None:
    assert _moves(DONE) == ([], [])


def test_logprobs_go_with_the_text_that_they_are_of() -> None:
    chunks = [
        ChatChunk(thinking="hm", logprobs=(TokenLogprob("hm", b"hm", -1.0),)),
        ChatChunk(logprobs=(TOKEN,)),
        ChatChunk(content="aa", logprobs=(TOKEN,)),
        ChatChunk(content="a", logprobs=(TOKEN,)),
    ]

    moves, blocks = _moves(*chunks)

    assert [block.logprobs for block in blocks] == [(), (TOKEN,) * 3]
    assert [len(move.block.logprobs) for move in moves if move.index == 1] == [0, 2, 1, 3]
