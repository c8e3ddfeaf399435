"""`olla run` without a terminal: prompts, replies, timings, pulls and interrupts."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Olla
from tests.cli.fake_daemon import SHOW, FakeDaemon, Reply, failed, generated


def last_generate(daemon: FakeDaemon) -> Any:
    return daemon.sent("POST /api/generate")[-1].json


def test_a_reply_goes_to_stdout_with_two_newlines(olla_process: Olla, daemon: FakeDaemon) -> None:
    done = olla_process("run", "m", "Why", "not?")

    assert (done.returncode, done.stdout, done.stderr) == (0, "Hello there\n\n", "")
    assert last_generate(daemon) == {"model": "m", "prompt": "Why not?"}


@pytest.mark.parametrize(
    ("args", "stdin", "prompt"),
    [
        (["Explain:"], "some\ntext\n", "some\ntext\n Explain:"),
        ([], "just stdin", "just stdin"),
        (["just args"], "", "just args"),
    ],
)
def test_the_prompt_is_stdin_then_the_words(
    olla: Olla, daemon: FakeDaemon, args: list[str], stdin: str, prompt: str
) -> None:
    olla("run", "m", *args, stdin=stdin)

    assert last_generate(daemon)["prompt"] == prompt


def test_stdin_that_is_not_utf_8_is_read(environment: dict[str, str], daemon: FakeDaemon) -> None:
    subprocess.run(
        [sys.executable, "-m", "olla", "run", "m"],
        input=b"\xff!",
        env=environment,
        capture_output=True,
        check=True,
    )

    assert last_generate(daemon)["prompt"] == "\ufffd!"


def test_an_empty_prompt_only_loads(olla: Olla, daemon: FakeDaemon) -> None:
    daemon.script("POST /api/generate", generated(done_reason="load"))

    done = olla("run", "m")

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert last_generate(daemon) == {"model": "m"}


@pytest.mark.parametrize(
    ("closing", "output"), [("<&-", "Hello there\n\n"), (">&-", ""), ("2>&-", "Hello there\n\n")]
)
def test_a_standard_stream_may_be_closed(
    environment: dict[str, str], daemon: FakeDaemon, closing: str, output: str
) -> None:
    done = subprocess.run(
        f"exec '{sys.executable}' -m olla run m hi {closing}",
        shell=True,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, output, "")


def test_flags_may_stand_behind_the_prompt(olla: Olla, daemon: FakeDaemon) -> None:
    olla("run", "m", "hi", "--keepalive", "1h", "--format", "json")

    assert last_generate(daemon) == {
        "model": "m",
        "prompt": "hi",
        "keep_alive": "1h",
        "format": "json",
    }


def test_a_schema_is_sent_as_it_is(olla: Olla, daemon: FakeDaemon) -> None:
    olla("run", "m", "hi", "--format", '{"type": "object"}')

    assert last_generate(daemon)["format"] == {"type": "object"}


@pytest.mark.parametrize(
    ("args", "think", "prompt"),
    [
        (["--think", "high"], True, "high"),
        (["--think=high", "hi"], "high", "hi"),
        (["--think=false", "hi"], False, "hi"),
        (["hi"], None, "hi"),
        (["--", "--think"], None, "--think"),
    ],
)
def test_the_value_of_think_is_attached(
    olla: Olla, daemon: FakeDaemon, args: list[str], think: bool | str | None, prompt: str
) -> None:
    olla("run", "m", *args)

    assert last_generate(daemon).get("think") == think
    assert last_generate(daemon)["prompt"] == prompt


def test_a_model_that_can_think_does(olla: Olla, daemon: FakeDaemon) -> None:
    daemon.script("POST /api/show", Reply([{**SHOW, "capabilities": ["thinking"]}]))

    olla("run", "m", "hi")

    assert last_generate(daemon)["think"] is True


THOUGHT = Reply(
    [
        {"response": "", "thinking": "hm", "done": False},
        {"response": "", "thinking": "...", "done": False},
        {"response": "Yes.", "done": False},
        {"response": "", "done": True},
    ]
)


def test_thinking_stands_between_marks(olla: Olla, daemon: FakeDaemon) -> None:
    daemon.script("POST /api/generate", THOUGHT)

    assert olla("run", "m", "hi").stdout == ("Thinking...\nhm...\n...done thinking.\n\nYes.\n\n")


def test_thinking_can_be_hidden(olla: Olla, daemon: FakeDaemon) -> None:
    daemon.script("POST /api/generate", THOUGHT)

    assert olla("run", "m", "hi", "--hidethinking").stdout == "Yes.\n\n"


PS = {
    "name": "m:latest",
    "model": "m:latest",
    "size": 1,
    "digest": "a",
    "expires_at": "2020-01-01T12:00:00Z",
    "size_vram": 0,
    "context_length": 4096,
}


@pytest.mark.parametrize(
    ("model", "window"), [("m", "4096 tokens"), ("other", "the model"), ("a b", "the model")]
)
def test_a_prompt_that_was_cut_is_told(
    olla: Olla, daemon: FakeDaemon, model: str, window: str
) -> None:
    daemon.script("POST /api/generate", generated("Hi", prompt_truncated_count=30))
    daemon.script("GET /api/ps", Reply([{"models": [PS]}]))

    done = olla("run", model, "hi")

    assert done.stdout == "Hi\n\n"
    assert done.stderr == (
        f"Warning: the conversation no longer fits the context of {window}; the oldest 30 tokens "
        "were left out; PARAMETER num_ctx in a Modelfile, or OLLA_CONTEXT_LENGTH for the server, "
        "raises it\n"
    )


def test_a_call_of_a_tool_is_told(olla: Olla, daemon: FakeDaemon) -> None:
    call = {"function": {"name": "f", "arguments": {"x": 1}}}
    daemon.script("POST /api/generate", Reply([{"tool_calls": [call], "done": True}]))

    assert olla("run", "m", "hi").stdout == (
        "  Model called a non-existent function 'f()' with arguments: {\"x\": 1}\n\n\n"
    )


def test_a_pipe_gets_no_wrap_and_no_escapes(olla: Olla, daemon: FakeDaemon) -> None:
    words = ["word "] * 100
    daemon.script("POST /api/generate", generated(*words))

    assert olla("run", "m", "hi").stdout == "word " * 100 + "\n\n"


def test_verbose_adds_the_timings_on_stderr(olla: Olla, daemon: FakeDaemon) -> None:
    daemon.script(
        "POST /api/generate",
        generated(
            "Hi",
            total_duration=1_234_567_000,
            load_duration=12_300_000,
            prompt_eval_count=26,
            prompt_eval_duration=100_000_000,
            eval_count=100,
            eval_duration=1_000_000_000,
        ),
    )

    done = olla("run", "m", "hi", "--verbose")

    assert done.stdout == "Hi\n\n"
    assert done.stderr == (
        "total duration:       1.234567s\n"
        "load duration:        12.3ms\n"
        "prompt eval count:    26 token(s)\n"
        "prompt eval duration: 100ms\n"
        "prompt eval rate:     260.00 tokens/s\n"
        "eval count:           100 token(s)\n"
        "eval duration:        1s\n"
        "eval rate:            100.00 tokens/s\n"
    )


def test_verbose_tells_how_many_drafted_tokens_were_right(olla: Olla, daemon: FakeDaemon) -> None:
    daemon.script("POST /api/generate", generated("Hi", draft_count=4, draft_accepted_count=3))

    assert olla("run", "m", "hi", "--verbose").stderr == (
        "draft acceptance:     0.75000 (3 accepted / 4 generated)\n"
    )


def test_verbose_leaves_out_what_is_zero(olla: Olla, daemon: FakeDaemon) -> None:
    daemon.script("POST /api/generate", generated("Hi", eval_count=2))

    assert olla("run", "m", "hi", "--verbose").stderr == "eval count:           2 token(s)\n"


def test_a_missing_model_is_pulled_first(olla: Olla, daemon: FakeDaemon) -> None:
    daemon.script("POST /api/show", failed(404, "model 'm:latest' not found"), Reply([SHOW]))
    daemon.script("POST /api/pull", Reply([{"status": "success"}]))

    done = olla("run", "m", "hi")

    assert (done.returncode, done.stdout, done.stderr) == (0, "Hello there\n\n", "success\n")
    assert daemon.sent("POST /api/pull")[0].json == {"model": "m"}


def test_a_model_that_cannot_be_pulled_is_an_error(olla: Olla, daemon: FakeDaemon) -> None:
    daemon.script("POST /api/show", failed(404, "model 'x:latest' not found"))
    daemon.script("POST /api/pull", Reply([{"error": "pull model manifest: file does not exist"}]))

    done = olla("run", "x", "hi")

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "Error: pull model manifest: file does not exist\n"


@pytest.mark.parametrize(
    ("route", "reply", "text"),
    [
        ("POST /api/show", failed(400, "invalid model name"), "invalid model name"),
        (
            "POST /api/generate",
            failed(400, '"m" does not support generate'),
            '400 Bad Request: "m" does not support generate',
        ),
    ],
)
def test_errors_of_the_daemon_are_shown(
    olla: Olla, daemon: FakeDaemon, route: str, reply: Reply, text: str
) -> None:
    daemon.script(route, reply)

    done = olla("run", "m", "hi")

    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"Error: {text}\n")


def test_an_error_in_mid_reply_keeps_what_was_written(olla: Olla, daemon: FakeDaemon) -> None:
    daemon.script("POST /api/generate", Reply([{"response": "Hel"}, {"error": "it broke"}]))

    done = olla("run", "m", "hi")

    assert (done.returncode, done.stdout, done.stderr) == (1, "Hel", "Error: it broke\n")


def wait_until_asleep(pid: int) -> None:
    """Wait until a process waits for something itself (Linux)."""
    deadline = time.monotonic() + 20
    num_seen = 0
    while num_seen < 3:
        assert time.monotonic() < deadline, "it never waits"
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        num_seen = num_seen + 1 if state == "S" else 0
        time.sleep(0.02)


def test_ctrl_c_stops_the_reply_and_exits_with_0(
    environment: dict[str, str], daemon: FakeDaemon, tmp_path: Path
) -> None:
    going_on = threading.Event()
    words = [{"response": "x" * 1000, "done": False}] * 10_000

    def before_line(index: int) -> None:
        if index:
            assert going_on.wait(timeout=20)

    daemon.script("POST /api/generate", Reply(words, before_line=before_line))
    with subprocess.Popen(
        [sys.executable, "-m", "olla", "run", "m", "hi"],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.read(1000)
        # Python loses a signal that comes between its last look and the call that waits.
        wait_until_asleep(process.pid)
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=20)
        going_on.set()

    assert (process.returncode, rest, errors) == (0, b"\n", b"")
    assert daemon.client_left.wait(timeout=20)


EMBEDS = Reply([{**SHOW, "capabilities": ["embedding"]}])


def test_an_embedding_model_prints_the_vector_of_the_prompt(olla: Olla, daemon: FakeDaemon) -> None:
    daemon.script("POST /api/show", EMBEDS)
    daemon.script("POST /api/embed", Reply([{"model": "m", "embeddings": [[0.5, -2]]}]))

    done = olla("run", "m", "a", "text", "--dimensions", "2", "--truncate")

    assert (done.returncode, done.stdout) == (0, "[0.5,-2]\n")
    assert daemon.sent("POST /api/embed")[-1].json == {
        "model": "m",
        "input": "a text",
        "dimensions": 2,
        "truncate": True,
    }


def test_an_embedding_model_wants_a_text(olla: Olla, daemon: FakeDaemon) -> None:
    daemon.script("POST /api/show", EMBEDS)

    done = olla("run", "m")

    assert done.returncode != 0
    assert "embedding models require input text." in done.stderr


def test_markdown_is_not_styled_in_a_pipe(olla: Olla, daemon: FakeDaemon) -> None:
    daemon.script("POST /api/generate", generated("# A **bold** `word`"))

    assert olla("run", "m", "hi").stdout == "# A **bold** `word`\n\n"
