"""The protocol: every message survives the pipe, and a broken pipe is told from a closed one."""

from __future__ import annotations

import io

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from olla.options import SamplingParams
from olla.runner import protocol
from olla.runner.protocol import (
    Adapter,
    Cancel,
    Detokenize,
    Failed,
    FailureKind,
    Finished,
    FromRunner,
    Generate,
    Load,
    Loaded,
    LoadProgress,
    Piece,
    ReplyDecoder,
    Text,
    Tokenize,
    Tokens,
    ToRunner,
    decode_from_runner,
    decode_to_runner,
    encode,
    read_message,
)

GENERATE = Generate(
    id=7,
    prompt="naïve 🦙\n",
    num_ctx=2048,
    sampling=SamplingParams(temperature=0.0, seed=42),
    context=[1, 2, 3],
    num_predict=16,
    stop=["\n\n"],
    adapters=[Adapter({"adapter_config.json": "/a", "adapter_model.safetensors": "/b"}, 0.5)],
    want_context=True,
)
TO_RUNNER = [
    Load(files={"model.gguf": "/blobs/sha256-0"}, dtype="float32", num_threads=2),
    Load(files={}, quantize="nf4", num_gpu=7, main_gpu=1, num_ctx=4096, profile=True),
    Tokenize(id=1, text="<|im_start|>", add_special_tokens=True),
    Tokenize(id=3, text="[img-0]", images=[b"\x89PNG"]),
    Detokenize(id=2, tokens=[1, 2]),
    GENERATE,
    msgspec.structs.replace(GENERATE, images=[b"\x89PNG", b""]),
    Cancel(id=7),
]
FROM_RUNNER = [
    LoadProgress(completed_bytes=1, total_bytes=2),
    Loaded(
        architecture="llama",
        context_length=8192,
        total_bytes=2**40,
        bytes_on_device=0,
        device="cpu",
        dtype="bfloat16",
    ),
    Tokens(id=1, tokens=[3, 4]),
    Text(id=2, text="é"),
    Piece(id=7, text="Hi"),
    Finished(
        id=7, reason="stop", num_prompt_tokens=3, prompt_ns=1, num_tokens=2, generation_ns=2**62
    ),
    Failed(id=0, kind=FailureKind.OUT_OF_MEMORY, text="no memory"),
]


@pytest.mark.parametrize("message", TO_RUNNER, ids=lambda message: type(message).__name__)
def test_a_message_to_the_runner_arrives_as_it_was_sent(message: ToRunner) -> None:
    body = read_message(io.BytesIO(encode(message)))

    assert body is not None
    assert decode_to_runner(body) == message


@pytest.mark.parametrize("message", FROM_RUNNER, ids=lambda message: type(message).__name__)
def test_a_message_from_the_runner_arrives_as_it_was_sent(message: FromRunner) -> None:
    body = read_message(io.BytesIO(encode(message)))

    assert body is not None
    assert decode_from_runner(body) == message


@given(st.lists(st.text(max_size=300), max_size=5))
def test_messages_come_out_one_by_one_and_then_the_end(texts: list[str]) -> None:
    messages = [Piece(id=number, text=text) for number, text in enumerate(texts)]
    stream = io.BytesIO(b"".join(encode(message) for message in messages))

    bodies = [read_message(stream) for _ in messages]

    assert [decode_from_runner(body) for body in bodies if body is not None] == messages
    assert read_message(stream) is None


@pytest.mark.parametrize("length", range(1, len(encode(Cancel(id=1)))))
def test_a_stream_cut_inside_a_message_is_not_a_clean_end(length: int) -> None:
    with pytest.raises(EOFError, match="ended inside a message"):
        read_message(io.BytesIO(encode(Cancel(id=1))[:length]))


def test_an_absurd_length_is_refused_before_anything_is_read() -> None:
    stream = io.BytesIO((protocol.MAX_MESSAGE_BYTES + 1).to_bytes(4, "little") + b"x")

    with pytest.raises(ValueError, match="message of 268435457 bytes"):
        read_message(stream)

    assert stream.read() == b"x"


@given(st.lists(st.text(max_size=300), max_size=5), st.integers(1, 50))
def test_where_the_bytes_of_replies_are_cut_does_not_matter(texts: list[str], size: int) -> None:
    messages = [Piece(id=number, text=text) for number, text in enumerate(texts)]
    data = b"".join(encode(message) for message in messages)
    decoder = ReplyDecoder()

    parts = [decoder.push(data[start : start + size]) for start in range(0, len(data), size)]

    assert [message for part in parts for message in part] == messages


def test_an_absurd_length_of_a_reply_is_refused_before_it_is_waited_for() -> None:
    with pytest.raises(ValueError, match="message of 268435457 bytes"):
        list(ReplyDecoder().push((protocol.MAX_MESSAGE_BYTES + 1).to_bytes(4, "little")))


def test_a_reply_is_not_taken_for_an_order() -> None:
    with pytest.raises(msgspec.ValidationError):
        decode_to_runner(msgspec.msgpack.encode(Piece(id=1, text="x")))


@given(st.binary(max_size=100))
def test_bytes_that_are_no_message_are_refused(body: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_to_runner(b"\xc1" + body)
