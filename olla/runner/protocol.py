"""Every message between the daemon and a runner, both ways, as tagged structs.

A message is a msgpack map behind a 4-byte little-endian length. The runner reads `ToRunner` on
its stdin and writes `FromRunner` on a private copy of its stdout, so whatever libraries print
lands in the log. A runner serves one base model; adapters come with each request. End of file
on stdin ends the runner. `id` is the daemon's number for a request; replies to it carry it.
Neither side imports torch here.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import BinaryIO

import msgspec

from olla.options import SamplingParams
from olla.requests import TokenLogprob

MAX_MESSAGE_BYTES = 256 * 1024 * 1024
LENGTH_BYTES = 4
MAX_RUNNING = 64
"""How many requests a model answers at once, unless the settings say."""

Files = dict[str, str]
"""A model's or an adapter's files: name in its repository -> path of the blob."""


class Adapter(msgspec.Struct, frozen=True):
    """LoRA weights to lay over the base, to some scale; those of one request add up."""

    files: Files
    scale: float = 1.0


class Load(msgspec.Struct, tag=True, frozen=True):
    """The first message: which model to load, and how. Answered by LoadProgress*, Loaded or Failed.

    0 threads or bytes of cache leave the choice to the runner.
    `files` is `{"model.gguf": path}` or a repository's files (config.json, *.safetensors ...);
    `draft_files` those of a small model that drafts for it, if there is one. `speculate` is one of
    `variables.SPECULATE`, `kv_cache_type` of `variables.KV_CACHE_TYPES`.
    `quantize` is one of `options.QUANTIZATIONS`. `num_gpu` layers go to GPUs, -1 as many as fit,
    beginning with number `main_gpu`. `num_ctx` is the window of the first request.
    With `profile`, the log tells where steps spend their time. At most `max_running` sequences
    run at once. `debug` and `log` are those of the settings.
    """

    files: Files
    dtype: str = "auto"
    device: str = "auto"
    num_threads: int = 0
    kv_cache_bytes: int = 0
    kv_cache_type: str = "auto"
    draft_files: Files = {}
    speculate: str = "auto"
    quantize: str = "auto"
    num_gpu: int = -1
    main_gpu: int = 0
    num_ctx: int = 0
    max_running: int = MAX_RUNNING
    profile: bool = False
    debug: bool = False
    log: str = "text"


class Tokenize(msgspec.Struct, tag=True, frozen=True):
    """Answered by Tokens or Failed. Special tokens written in the text are read as such.

    `images` are those of a Generate with this prompt, so that their tokens count too.
    """

    id: int
    text: str
    add_special_tokens: bool = False
    images: list[bytes] = []


class Detokenize(msgspec.Struct, tag=True, frozen=True):
    """Answered by Text or Failed."""

    id: int
    tokens: list[int]


class Schema(msgspec.Struct, frozen=True):
    """A JSON schema, as JSON; `name` is what errors call it."""

    name: str
    source: str


class Grammar(msgspec.Struct, frozen=True):
    """What a reply has to match, in llguidance's Lark dialect.

    The source may refer to rules that the runner adds, by place in their lists: `schema_0` is
    JSON that the schema allows; `tag_0` the tag, which may be a special token of the model;
    `upto_0` text that ends with the tag, the first there is; `without_0` text without it. Where an
    optional grammar cannot be used, the reply is free.
    """

    source: str
    schemas: tuple[Schema, ...] = ()
    tags: tuple[str, ...] = ()
    is_optional: bool = False


class Generate(msgspec.Struct, tag=True, frozen=True):
    """Answered by Piece*, then Finished or Failed.

    The prompt is `context` (token ids) followed by `prompt`. `num_predict` < 0 is no bound but
    the window. `num_keep` and `shift` say what happens when the window of `num_ctx` is full:
    shift drops the oldest tokens after the first `num_keep`, else the reply ends with "length".
    A step drafts `num_draft` tokens at most, -1 for as many as pay; no text depends on it.
    With `echo`, the first Piece is the prompt. `images` are files; the prompt has a place for each,
    which is `[img-N]` for number N of them, or what the model's own template writes, in order. A
    prompt with images is not cut, and its window does not shift. Special tokens have no text in
    the reply, but for those whose text is in `shown_tokens`: its parser reads them.
    """

    id: int
    prompt: str
    num_ctx: int
    sampling: SamplingParams
    context: list[int] = []
    add_special_tokens: bool = False
    num_predict: int = -1
    num_keep: int = 4
    num_draft: int = -1
    shift: bool = True
    truncate: bool = True
    stop: list[str] = []
    adapters: list[Adapter] = []
    want_context: bool = False
    logprobs: bool = False
    top_logprobs: int = 0
    logit_bias: dict[int, float] = {}
    grammar: Grammar | None = None
    echo: bool = False
    images: list[bytes] = []
    shown_tokens: list[str] = []


class Embed(msgspec.Struct, tag=True, frozen=True):
    """Answered by Embeddings*, or Failed. Any model embeds, but for those that score pairs.

    Each input is text, or token ids. One longer than `num_ctx` (the model's own window, if that
    is shorter) is cut, or with `truncate` false refused; special tokens count. `dimensions` keeps
    that many first numbers of each vector; 0, or more than there are, keeps all. `normalize`
    makes vectors of unit length; those of models that generate text are so anyway.
    """

    id: int
    inputs: list[str | list[int]]
    num_ctx: int
    truncate: bool = True
    dimensions: int = 0
    normalize: bool = True


class Rerank(msgspec.Struct, tag=True, frozen=True):
    """Answered by Scores or Failed. How well each document answers the query.

    A cross-encoder reads both at once and says between 0 and 1; of any other model it is the
    cosine of their vectors. What is too long is cut, as for Embed.
    """

    id: int
    query: str
    documents: list[str]
    num_ctx: int


class Cancel(msgspec.Struct, tag=True, frozen=True):
    """The client of request `id` has gone; no reply comes for it after this has been read."""

    id: int


ToRunner = Load | Tokenize | Detokenize | Generate | Embed | Rerank | Cancel


class LoadProgress(msgspec.Struct, tag=True, frozen=True):
    completed_bytes: int
    total_bytes: int


class Loaded(msgspec.Struct, tag=True, frozen=True):
    """The model is ready. `bytes_on_device` counts what is on GPUs, 0 on the CPU.

    `note` says what had to be given up so that it fits, "" for nothing.
    """

    architecture: str
    context_length: int
    total_bytes: int
    bytes_on_device: int
    device: str
    dtype: str
    bos_token: str = ""
    eos_token: str = ""
    note: str = ""


class Stepped(msgspec.Struct, tag=True, frozen=True):
    """Now and then while it works: how long each step took since the last of these.

    `num_used_tokens` of the cache's `num_cache_tokens` are in use by sequences that run.
    """

    seconds: list[float]
    num_used_tokens: int
    num_cache_tokens: int


class Tokens(msgspec.Struct, tag=True, frozen=True):
    id: int
    tokens: list[int]


class Text(msgspec.Struct, tag=True, frozen=True):
    id: int
    text: str


class Piece(msgspec.Struct, tag=True, frozen=True):
    """Some more text of a reply: whole characters, never part of a stop string."""

    id: int
    text: str
    logprobs: list[TokenLogprob] = []


class Finished(msgspec.Struct, tag=True, frozen=True):
    """The last word on a request. `reason` is "stop" or "length".

    `context` holds the token ids of prompt and reply if they were asked for, without images'.
    `num_prompt_tokens` counts those of images, and those reused from the cache;
    `num_cached_tokens` only the latter. `num_truncated_tokens` were cut from the prompt.
    `stop_sequence` is the stop string that ended the reply, if one did. `num_drafted_tokens` were
    guessed ahead, and `num_accepted_tokens` of them were right.
    """

    id: int
    reason: str
    num_prompt_tokens: int
    prompt_ns: int
    num_tokens: int
    generation_ns: int
    num_cached_tokens: int = 0
    context: list[int] = []
    num_truncated_tokens: int = 0
    stop_sequence: str = ""
    num_drafted_tokens: int = 0
    num_accepted_tokens: int = 0


class Embeddings(msgspec.Struct, tag=True, frozen=True):
    """The vectors of some of the inputs, in the order that they were computed in.

    `places` are their indices among the inputs. `vectors` holds one vector after another, as
    little-endian float32; `num_tokens` the tokens of each as it was read. An Embed without inputs
    is answered by one of these without vectors.
    """

    id: int
    places: list[int]
    vectors: bytes
    num_tokens: list[int]
    is_last: bool


class Scores(msgspec.Struct, tag=True, frozen=True):
    """One score for each document, in order; `num_tokens` is all that was read for them."""

    id: int
    scores: list[float]
    num_tokens: int


class FailureKind(StrEnum):
    """Which error of olla.errors a failure is on the daemon's side."""

    BAD_INPUT = "bad_input"
    PROMPT_TOO_LONG = "prompt_too_long"
    OUT_OF_MEMORY = "out_of_memory"
    RUNNER = "runner"


class Failed(msgspec.Struct, tag=True, frozen=True):
    """Request `id` (0: the load) cannot be answered; `text` is fit to show a user."""

    id: int
    kind: FailureKind
    text: str


FromRunner = (
    LoadProgress
    | Loaded
    | Stepped
    | Tokens
    | Text
    | Piece
    | Finished
    | Embeddings
    | Scores
    | Failed
)


def encode(message: ToRunner | FromRunner) -> bytes:
    """The bytes of one message, length first."""
    body = msgspec.msgpack.encode(message)
    return len(body).to_bytes(LENGTH_BYTES, "little") + body


def decode_to_runner(body: bytes) -> ToRunner:
    return _TO_RUNNER.decode(body)


def decode_from_runner(body: bytes | bytearray) -> FromRunner:
    return _FROM_RUNNER.decode(body)


def read_message(stream: BinaryIO) -> bytes | None:
    """The body of the next message on a blocking stream; None at its end.

    Raises:
        EOFError: the stream ended inside a message.
        ValueError: the length is past MAX_MESSAGE_BYTES; the stream cannot be trusted further.
    """
    head = stream.read(LENGTH_BYTES)
    if not head:
        return None
    length = _checked(int.from_bytes(head, "little"))
    body = stream.read(length)
    if len(head) < LENGTH_BYTES or len(body) < length:
        raise EOFError("the stream ended inside a message")
    return body


class ReplyDecoder:
    """A runner's messages, out of bytes that are cut anywhere."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def push(self, data: bytes) -> Iterator[FromRunner]:
        """The messages that `data` completes; to be taken to the last.

        Raises:
            ValueError: the length is past MAX_MESSAGE_BYTES; the stream cannot be trusted further.
            msgspec.DecodeError: the bytes are no message.
        """
        buffer = self._buffer
        buffer += data
        while len(buffer) >= LENGTH_BYTES:
            end = LENGTH_BYTES + _checked(int.from_bytes(buffer[:LENGTH_BYTES], "little"))
            if len(buffer) < end:
                return
            body = buffer[LENGTH_BYTES:end]
            del buffer[:end]
            yield decode_from_runner(body)


def _checked(length: int) -> int:
    if length > MAX_MESSAGE_BYTES:
        raise ValueError(f"message of {length} bytes")
    return length


_TO_RUNNER: msgspec.msgpack.Decoder[ToRunner] = msgspec.msgpack.Decoder(ToRunner)
_FROM_RUNNER: msgspec.msgpack.Decoder[FromRunner] = msgspec.msgpack.Decoder(FromRunner)
