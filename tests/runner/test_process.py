"""The handle on a runner's child, over real pipes to a child without a model."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from io import FileIO

import pytest

from olla.caller import CALLER, Caller
from olla.errors import BadInput, OllaError, OutOfMemory, PromptTooLong, RunnerDied, RunnerError
from olla.options import SamplingParams
from olla.runner.process import RunnerProcess
from olla.runner.protocol import (
    MAX_MESSAGE_BYTES,
    Embed,
    Embeddings,
    Finished,
    Generate,
    Load,
    LoadProgress,
    Piece,
    Rerank,
    Scores,
)

COMMAND = (sys.executable, "-m", "tests.fake_runner")
DIED = (
    "model runner has unexpectedly stopped, this may be due to resource limitations "
    "or an internal error, check ollama server logs for details"
)


@pytest.fixture
async def runner() -> AsyncIterator[RunnerProcess]:
    runner = await _start("model.gguf")
    yield runner
    await runner.close()


async def _start(file: str, load_timeout_s: float = 60) -> RunnerProcess:
    return await RunnerProcess.start(
        Load({file: "/x"}), command=COMMAND, load_timeout_s=load_timeout_s
    )


def _request(prompt: str) -> Generate:
    return Generate(0, prompt, num_ctx=100, sampling=SamplingParams())


async def _reply(runner: RunnerProcess, prompt: str) -> str:
    return "".join(
        [item.text async for item in runner.generate(_request(prompt)) if isinstance(item, Piece)]
    )


async def test_a_reply_comes_piece_by_piece_and_ends_with_finished(runner: RunnerProcess) -> None:
    items = [item async for item in runner.generate(_request("a b"))]

    assert items == [Piece(1, "a"), Piece(1, "b"), Finished(1, "stop", 1, 10, 2, 20)]


async def test_the_end_of_a_runner_is_no_part_of_the_request_that_loaded_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    callers: dict[str, str] = {}
    caplog.set_level(logging.INFO)
    caplog.handler.addFilter(
        lambda record: bool(callers.setdefault(record.msg[:12], CALLER.get().request_id)) or True
    )
    CALLER.set(Caller("the-one-that-loads"))

    runner = await _start("model.gguf")
    await runner.close()

    assert callers["runner ended"] == ""


async def test_replies_find_the_requests_they_belong_to(runner: RunnerProcess) -> None:
    prompts = [f"p{number} q{number}" for number in range(20)]

    replies = await asyncio.gather(*(_reply(runner, prompt) for prompt in prompts))

    assert replies == [prompt.replace(" ", "") for prompt in prompts]


async def test_text_is_turned_into_tokens_and_back(runner: RunnerProcess) -> None:
    assert await runner.tokenize("a bc def") == [1, 2, 3]
    assert await runner.detokenize((1, 2)) == "w1 w2"


async def test_progress_of_the_load_is_told() -> None:
    told: list[LoadProgress] = []

    runner = await RunnerProcess.start(
        Load({"model.gguf": "/x"}), command=COMMAND, on_progress=told.append
    )
    await runner.close()

    assert told == [LoadProgress(1, 2), LoadProgress(2, 2)]


@pytest.mark.parametrize(
    ("file", "error", "text"),
    [
        ("broken", BadInput, "broken file"),
        ("huge", OutOfMemory, "model requires more system memory"),
        ("dies", RunnerError, "model runner ended while loading the model: exit status 3"),
    ],
)
async def test_a_load_that_fails_says_why(file: str, error: type[OllaError], text: str) -> None:
    with pytest.raises(error) as caught:
        await _start(file)

    assert str(caught.value) == text


async def test_a_load_without_progress_is_given_up() -> None:
    with pytest.raises(RunnerError) as caught:
        await _start("stuck", load_timeout_s=1.5)

    assert str(caught.value) == (
        "timed out waiting for the model runner to start - no progress for 1.5 seconds"
    )


async def test_a_start_that_is_cancelled_leaves_no_child() -> None:
    pids: list[int] = []
    progress = asyncio.Event()

    def note(_: LoadProgress) -> None:
        progress.set()

    class Noted(RunnerProcess):
        def __init__(self, process: asyncio.subprocess.Process, replies: FileIO) -> None:
            super().__init__(process, replies)
            pids.append(process.pid)

    task = asyncio.create_task(
        Noted.start(Load({"stuck": "/x"}), command=COMMAND, on_progress=note)
    )
    await progress.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("bad_input", BadInput),
        ("prompt_too_long", PromptTooLong),
        ("out_of_memory", OutOfMemory),
        ("runner", RunnerError),
    ],
)
async def test_a_failure_becomes_its_error(
    runner: RunnerProcess, kind: str, error: type[OllaError]
) -> None:
    with pytest.raises(error) as caught:
        await _reply(runner, f"fail {kind}")

    assert str(caught.value) == f"failed: {kind}"
    assert await _reply(runner, "still here") == "stillhere"


async def test_closing_a_reply_cancels_it(runner: RunnerProcess) -> None:
    async with aclosing(runner.generate(_request("endless"))) as reply:
        await anext(reply)

    assert await _reply(runner, "cancelled") == "1"


async def test_a_task_that_is_cancelled_cancels_its_reply(runner: RunnerProcess) -> None:
    has_begun = asyncio.Event()

    async def consume() -> None:
        async with aclosing(runner.generate(_request("endless"))) as reply:
            async for _ in reply:
                has_begun.set()

    task = asyncio.create_task(consume())
    await has_begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert await _reply(runner, "cancelled") == "1"


async def test_a_reply_that_has_ended_is_not_cancelled(runner: RunnerProcess) -> None:
    await _reply(runner, "a")

    assert await _reply(runner, "cancelled") == "0"


async def test_a_client_that_does_not_read_holds_up_nobody(runner: RunnerProcess) -> None:
    async with aclosing(runner.generate(_request("flood 5000"))) as slow:
        await anext(slow)

        assert await _reply(runner, "quick") == "quick"
        assert len([item async for item in slow]) == 5000


async def test_every_request_in_a_killed_runner_gets_an_error(runner: RunnerProcess) -> None:
    replies = [runner.generate(_request("endless")) for _ in range(2)]
    for reply in replies:
        await anext(reply)

    os.kill(runner.pid, signal.SIGKILL)

    for reply in replies:
        with pytest.raises(RunnerDied) as caught:
            async for _ in reply:
                pass
        assert str(caught.value) == DIED
    assert not runner.alive


async def test_what_a_dying_runner_said_is_still_delivered(runner: RunnerProcess) -> None:
    async with aclosing(runner.generate(_request("die"))) as reply:
        assert await anext(reply) == Piece(1, "last words")
        with pytest.raises(RunnerDied):
            await anext(reply)


async def test_a_dead_runner_takes_no_requests(runner: RunnerProcess) -> None:
    with pytest.raises(RunnerDied):
        await _reply(runner, "die")

    with pytest.raises(RunnerDied):
        await _reply(runner, "hello")
    with pytest.raises(RunnerDied):
        await runner.tokenize("hello")


async def test_a_prompt_that_no_runner_takes_is_refused_before_it_ends_one(
    runner: RunnerProcess,
) -> None:
    with pytest.raises(PromptTooLong, match=r"^the prompt is longer than 256 MiB$"):
        await _reply(runner, "x" * MAX_MESSAGE_BYTES)

    assert await _reply(runner, "still here") == "stillhere"


async def test_a_runner_that_talks_nonsense_is_killed(runner: RunnerProcess) -> None:
    with pytest.raises(RunnerDied):
        await _reply(runner, "garbage")

    assert not runner.alive


async def test_a_closed_runner_ends(runner: RunnerProcess) -> None:
    await runner.close()

    assert not runner.alive
    with pytest.raises(ProcessLookupError):
        os.kill(runner.pid, 0)


async def test_a_runner_that_does_not_end_is_killed() -> None:
    runner = await _start("deaf")

    await runner.close(grace_s=0.2)

    assert not runner.alive


async def test_vectors_come_as_they_are_computed(runner: RunnerProcess) -> None:
    replies = [reply async for reply in runner.embed(Embed(0, ["a", [1, 2]], num_ctx=9))]

    assert replies == [
        Embeddings(1, [0], b"1234", [1], is_last=False),
        Embeddings(1, [1], b"1234", [2], is_last=True),
    ]


async def test_scores_come_together(runner: RunnerProcess) -> None:
    assert await runner.rerank(Rerank(0, "q", ["a", "bb"], num_ctx=9)) == Scores(1, [1.0, 2.0], 3)


async def test_leaving_before_the_last_vector_cancels(runner: RunnerProcess) -> None:
    task = asyncio.create_task(anext(runner.embed(Embed(0, ["endless"], num_ctx=9))))
    assert await _reply(runner, "cancelled") == "0"

    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert await _reply(runner, "cancelled") == "1"
    assert [reply async for reply in runner.embed(Embed(0, ["a"], num_ctx=9))]
