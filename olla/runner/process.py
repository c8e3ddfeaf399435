"""RunnerProcess: the daemon's handle on one child process that serves one loaded model.

Owns the child, its pipes and the routing of replies by id; knows nothing about names, keep-alives
or prompts. What the child writes is routed where it is read, with no task between, and never waits
for those who use it: each request has a mailbox without a bound (a reply is bounded by its
`num_predict`), so a client that reads slowly holds up nobody else. When the child ends, every
request in it gets RunnerDied. The child's stderr is the daemon's.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress
from contextvars import Context
from io import FileIO
from itertools import count
from typing import Protocol, Self, TypeVar

import msgspec

from olla.errors import BadInput, OllaError, OutOfMemory, PromptTooLong, RunnerDied, RunnerError
from olla.runner.protocol import (
    LENGTH_BYTES,
    MAX_MESSAGE_BYTES,
    Cancel,
    Detokenize,
    Embed,
    Embeddings,
    Failed,
    FailureKind,
    Finished,
    FromRunner,
    Generate,
    Load,
    Loaded,
    LoadProgress,
    Piece,
    Rerank,
    Scores,
    Stepped,
    Text,
    Tokenize,
    Tokens,
    ToRunner,
    encode,
)
from olla.runner.replies import Mailbox, ReplyReader

COMMAND = (sys.executable, "-m", "olla.runner")

_log = logging.getLogger(__name__)

_ERRORS: dict[FailureKind, type[OllaError]] = {
    FailureKind.BAD_INPUT: BadInput,
    FailureKind.PROMPT_TOO_LONG: PromptTooLong,
    FailureKind.OUT_OF_MEMORY: OutOfMemory,
    FailureKind.RUNNER: RunnerError,
}
_LOAD_ID = 0
_Reply = TypeVar("_Reply", Tokens, Text)
_Answer = TypeVar("_Answer", bound=Piece | Finished | Embeddings | Scores)


class Runner(Protocol):
    """What the pool and inference ask of a loaded model."""

    @property
    def loaded(self) -> Loaded: ...

    @property
    def alive(self) -> bool: ...

    def generate(self, request: Generate) -> AsyncGenerator[Piece | Finished, None]: ...

    def embed(self, request: Embed) -> AsyncGenerator[Embeddings, None]: ...

    async def rerank(self, request: Rerank) -> Scores: ...

    async def tokenize(
        self, text: str, add_special_tokens: bool = False, images: Sequence[bytes] = ()
    ) -> list[int]: ...

    async def detokenize(self, tokens: Sequence[int]) -> str: ...

    async def close(self) -> None: ...


class RunnerProcess:
    """Made by `start`; ended by `close`, or when the child ends by itself."""

    def __init__(self, process: Process, replies: FileIO) -> None:
        """`replies` is the reading end of the child's stdout, closed when that ends."""
        self._process = process
        self._ids = count(_LOAD_ID + 1)
        self._mailboxes: dict[int, Mailbox] = {_LOAD_ID: Mailbox()}
        self._is_dead = False
        self._loaded: Loaded | None = None
        self._on_stepped: Callable[[Stepped], None] | None = None
        self._reader = asyncio.create_task(
            # It outlives the request that wanted the load, whose id belongs in no line of its.
            self._read(replies),
            name=f"runner-{process.pid}",
            context=Context(),
        )

    @classmethod
    async def start(
        cls,
        load: Load,
        *,
        load_timeout_s: float = math.inf,
        on_progress: Callable[[LoadProgress], None] | None = None,
        on_stepped: Callable[[Stepped], None] | None = None,
        command: Sequence[str] = COMMAND,
    ) -> Self:
        """Start a child and have it load a model; a start that fails or is cancelled leaves none.

        Args:
            load_timeout_s: the longest time without a sign of progress.
            on_stepped: told now and then of the steps that were computed.

        Raises:
            OllaError: the child refused the files, ended, or made no progress.
        """
        runner = cls(*await _spawn(command))
        runner._on_stepped = on_stepped
        try:
            await runner._load(load, load_timeout_s, on_progress)
        finally:
            if runner._loaded is None:
                await runner._kill()
        _log.info("runner loaded pid=%d device=%s", runner.pid, runner.loaded.device)
        return runner

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def loaded(self) -> Loaded:
        assert self._loaded is not None, "start() returns loaded runners only"
        return self._loaded

    @property
    def alive(self) -> bool:
        return not self._is_dead

    def generate(self, request: Generate) -> AsyncGenerator[Piece | Finished, None]:
        """The reply, piece by piece; its last item is Finished. Closing it early cancels.

        The id of `request` is replaced.

        Raises:
            OllaError: the runner refused the request, or RunnerDied.
        """
        return self._replies(request, (Piece, Finished))

    def embed(self, request: Embed) -> AsyncGenerator[Embeddings, None]:
        """The vectors as they are computed. Closing it early cancels; it raises as `generate`."""
        return self._replies(request, (Embeddings,))

    async def rerank(self, request: Rerank) -> Scores:
        """The scores of all documents; raises as `generate`."""
        async with aclosing(self._replies(request, (Scores,))) as replies:
            return await anext(replies)

    async def tokenize(
        self, text: str, add_special_tokens: bool = False, images: Sequence[bytes] = ()
    ) -> list[int]:
        number, mailbox = self._open_mailbox()
        message = Tokenize(number, text, add_special_tokens, list(images))
        return (await self._ask(message, mailbox, Tokens)).tokens

    async def detokenize(self, tokens: Sequence[int]) -> str:
        number, mailbox = self._open_mailbox()
        reply = await self._ask(Detokenize(number, list(tokens)), mailbox, Text)
        return reply.text

    async def close(self, grace_s: float = 2.0) -> None:
        """End the child: ask by closing its stdin, then kill it. Requests in it get RunnerDied."""
        stdin = self._process.stdin
        assert stdin is not None
        stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), grace_s)
        except TimeoutError:
            _log.warning("runner does not end, killing it pid=%d", self.pid)
        finally:
            await self._kill()

    async def _load(
        self, load: Load, timeout_s: float, on_progress: Callable[[LoadProgress], None] | None
    ) -> None:
        mailbox = self._mailboxes[_LOAD_ID]
        await self._send(load)
        while self._loaded is None:
            reply = await self._load_reply(mailbox, timeout_s)
            if isinstance(reply, LoadProgress) and on_progress is not None:
                on_progress(reply)
            elif isinstance(reply, Loaded):
                self._loaded = reply
        del self._mailboxes[_LOAD_ID]

    async def _load_reply(self, mailbox: Mailbox, timeout_s: float) -> FromRunner:
        try:
            async with asyncio.timeout(None if math.isinf(timeout_s) else timeout_s):
                reply = await mailbox.take()
        except TimeoutError as error:
            raise RunnerError(
                "timed out waiting for the model runner to start - "
                f"no progress for {timeout_s:g} seconds"
            ) from error
        if reply is None:
            code = await self._process.wait()
            raise RunnerError(f"model runner ended while loading the model: exit status {code}")
        return _checked(reply)

    async def _replies(
        self, request: Generate | Embed | Rerank, kinds: tuple[type[_Answer], ...]
    ) -> AsyncGenerator[_Answer, None]:
        """Every reply to a request, which is cancelled if this is closed before the last."""
        number, mailbox = self._open_mailbox()
        is_over = False
        try:
            await self._send(msgspec.structs.replace(request, id=number))
            while not is_over:
                reply = _checked(await mailbox.take())
                assert isinstance(reply, kinds)
                is_over = _is_last(reply)
                yield reply
        except OllaError:
            is_over = True
            raise
        finally:
            del self._mailboxes[number]
            if not is_over:
                self._write(encode(Cancel(number)))

    async def _ask(
        self, message: Tokenize | Detokenize, mailbox: Mailbox, kind: type[_Reply]
    ) -> _Reply:
        try:
            await self._send(message)
            reply = _checked(await mailbox.take())
            assert isinstance(reply, kind)
            return reply
        finally:
            del self._mailboxes[message.id]

    def _open_mailbox(self) -> tuple[int, Mailbox]:
        if self._is_dead:
            raise RunnerDied
        number = next(self._ids)
        mailbox = self._mailboxes[number] = Mailbox()
        return number, mailbox

    async def _send(self, message: ToRunner) -> None:
        """Write a message and wait until the pipe has room for more.

        Raises:
            PromptTooLong: it is longer than a runner takes; one that met it would end.
        """
        data = encode(message)
        if len(data) > LENGTH_BYTES + MAX_MESSAGE_BYTES:
            raise PromptTooLong(f"the prompt is longer than {MAX_MESSAGE_BYTES // 2**20} MiB")
        self._write(data)
        assert self._process.stdin is not None
        # The reader notices a broken pipe too, and tells those who wait.
        with suppress(BrokenPipeError, ConnectionResetError):
            await self._process.stdin.drain()

    def _write(self, data: bytes) -> None:
        assert self._process.stdin is not None
        if not self._is_dead and not self._process.stdin.is_closing():
            self._process.stdin.write(data)

    async def _read(self, replies: FileIO) -> None:
        """Route replies until the child's stdout ends, which is how its death shows."""
        try:
            reader = ReplyReader(self._route, self._on_nonsense)
            await asyncio.get_running_loop().connect_read_pipe(lambda: reader, replies)
            await reader.end
        finally:
            self._is_dead = True
            for mailbox in self._mailboxes.values():
                mailbox.put(None)
        _log.info("runner ended pid=%d status=%d", self.pid, await self._process.wait())

    def _on_nonsense(self) -> None:
        _log.exception("runner sent something that is no message, killing it pid=%d", self.pid)
        self._signal_kill()

    def _route(self, reply: FromRunner) -> None:
        if isinstance(reply, Stepped):
            if self._on_stepped is not None:
                self._on_stepped(reply)
            return
        number = _LOAD_ID if isinstance(reply, LoadProgress | Loaded) else reply.id
        mailbox = self._mailboxes.get(number)
        if mailbox is not None:  # else it was cancelled, and this reply was already on its way
            mailbox.put(reply)

    async def _kill(self) -> None:
        self._signal_kill()
        await asyncio.shield(self._reader)

    def _signal_kill(self) -> None:
        # Not Process.kill(): it looks for an exit status first, and takes that of a child which
        # has just ended away from asyncio, which then reports 255 (python/cpython#127049).
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)


async def _spawn(command: Sequence[str]) -> tuple[Process, FileIO]:
    """A child and the reading end of its stdout.

    It is in a session of its own, since Ctrl-C on the daemon's terminal is for the daemon alone.
    """
    read_end, write_end = os.pipe()
    replies = FileIO(read_end, "rb")
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=write_end, start_new_session=True, env=_environment()
        )
    except BaseException:
        replies.close()
        raise
    finally:
        os.close(write_end)
    return process, replies


def _environment() -> dict[str, str]:
    """Ours, but OpenMP's threads soon sleep while they wait, unless the user says how they wait.

    Spinning as long as they do by default, two threads on two cores that other programs use as well
    decode 1 to 6 tokens a second; so, 13. On an idle machine both decode some 37; with threads that
    sleep at once it is 12 to 25.
    """
    return {"GOMP_SPINCOUNT": "20000", **os.environ}  # noqa: TID251 - handed on, not read


def _is_last(reply: FromRunner) -> bool:
    return reply.is_last if isinstance(reply, Embeddings) else isinstance(reply, Finished | Scores)


def _checked(reply: FromRunner | None) -> FromRunner:
    if reply is None:
        raise RunnerDied
    if isinstance(reply, Failed):
        raise _ERRORS[reply.kind](reply.text)
    return reply
