"""`olla bench` against a scripted daemon."""

from __future__ import annotations

import json
import re
import threading
import time

import pytest

from tests.cli.conftest import Olla
from tests.cli.fake_daemon import FakeDaemon, Reply, failed, generated
from tests.cli.tmux import Terminal

SMALL = ("--streams", "1,2", "--prompt-tokens", "8", "--output-tokens", "4", "--rounds", "2")
COUNTS = {"prompt_eval_count": 9, "eval_count": 4}
SSE = b"".join(
    [
        b'data: {"choices": [{"text": "a"}]}\n\n',
        b'data: {"choices": [{"text": "b"}]}\n\n',
        b'data: {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 4}}\n\n',
        b"data: [DONE]\n\n",
    ]
)


@pytest.fixture(autouse=True)
def model(daemon: FakeDaemon) -> None:
    daemon.script("GET /api/ps", Reply([{"models": []}]))
    daemon.script("POST /api/generate", generated("a", "b", "c", "d", **COUNTS))


def test_the_table_has_a_row_for_each_number_of_streams(olla: Olla) -> None:
    done = olla("bench", "m", *SMALL)

    header, one, two, summary = done.stdout.splitlines()
    assert header.split("    ")[:2] == ["STREAMS", "FIRST TOKEN s"]
    assert (one.split()[0], two.split()[0]) == ("1", "2")
    assert re.fullmatch(
        r"m: loaded in \d+\.\d\d s; prompts of 9 tokens, replies of 4, median of 2", summary
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_model_is_loaded_anew(olla: Olla, daemon: FakeDaemon) -> None:
    running = {
        "name": "m:latest",
        "digest": "d",
        "size": 1,
        "size_vram": 0,
        "expires_at": "2030-01-01T00:00:00Z",
    }
    daemon.script("GET /api/ps", Reply([{"models": [running]}]), Reply([{"models": []}]))

    olla("bench", "m", *SMALL)

    unload, load, *_ = [request.json for request in daemon.sent("POST /api/generate")]
    assert unload["keep_alive"] == 0
    assert load == {"model": "m", "options": {"num_ctx": 84}}
    assert len(daemon.sent("GET /api/ps")) == 2


def test_no_prompt_is_asked_twice(olla: Olla, daemon: FakeDaemon) -> None:
    olla("bench", "m", *SMALL)

    asked = [request.json for request in daemon.sent("POST /api/generate")][2:]
    prompts = [body["prompt"] for body in asked]
    assert len(prompts) == len(set(prompts)) + 1  # the very first only finds out what is accepted
    assert {len(prompt.split()) for prompt in prompts} == {8}


def test_json_has_every_round(olla: Olla, daemon: FakeDaemon) -> None:
    reply = generated("a", "b", "c", "d", **COUNTS)
    daemon.script(
        "POST /api/generate", Reply(reply.lines, before_line=lambda _index: time.sleep(0.02))
    )

    report = json.loads(olla("bench", "m", *SMALL, "--json").stdout)

    assert [result["streams"] for result in report["results"]] == [1, 2]
    assert all(len(result["rounds"]) == 2 for result in report["results"])
    assert report["results"][0]["median"]["decode"] > 0
    assert report["results"][1]["rounds"][0]["num_tokens"] == 4
    assert report["load_s"] > 0


def test_replies_that_end_early_are_told_of(olla: Olla, daemon: FakeDaemon) -> None:
    daemon.script("POST /api/generate", generated("a", "b", prompt_eval_count=9, eval_count=2))

    done = olla("bench", "m", *SMALL)

    assert done.stderr == "Warning: the model ended some replies early, one after 2 of 4 tokens\n"


def test_a_server_that_speaks_openai_is_not_asked_to_load(olla: Olla, daemon: FakeDaemon) -> None:
    daemon.script("POST /v1/completions", Reply(raw=SSE))

    done = olla("bench", "m", *SMALL, "--api", "openai", "--host", f"http://{daemon.address}")

    assert done.stdout.splitlines()[-1] == "m: prompts of 9 tokens, replies of 4, median of 2"
    assert not daemon.sent("POST /api/generate")
    assert all(request.json["ignore_eos"] for request in daemon.sent("POST /v1/completions"))


def test_a_server_that_refuses_ignore_eos_is_asked_without(olla: Olla, daemon: FakeDaemon) -> None:
    daemon.script("POST /v1/completions", failed(422, "Unexpected fields"), Reply(raw=SSE))

    done = olla("bench", "m", *SMALL, "--api", "openai", "--host", daemon.address)

    assert done.returncode == 0
    asked = [request.json for request in daemon.sent("POST /v1/completions")]
    assert ["ignore_eos" in body for body in asked] == [True] + [False] * (len(asked) - 1)


def test_a_model_that_is_missing_is_one_line(olla: Olla, daemon: FakeDaemon) -> None:
    daemon.script("POST /api/generate", failed(404, "model 'm' not found"))

    done = olla("bench", "m", *SMALL)

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "Error: 404 Not Found: model 'm' not found\n"


def test_a_server_that_is_down_is_named(olla: Olla) -> None:
    done = olla("bench", "m", "--host", "http://127.0.0.1:1")

    assert done.returncode == 1
    assert done.stderr == "Error: nothing answers at http://127.0.0.1:1\n"


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("--streams=1,x", "expected whole numbers with commas between, such as 1,4,8"),
        ("--streams=0", "expected numbers from 1 to 256"),
        ("--streams=257", "expected numbers from 1 to 256"),
        ("--output-tokens=1", "1 is not in the range 2<=x<=1000000"),
        ("--prompt-tokens=0", "0 is not in the range 1<=x<=1000000"),
        ("--rounds=0", "0 is not in the range 1<=x<=1000"),
        ("--api=soap", "'soap' is not one of 'ollama', 'openai'"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(olla: Olla, option: str, text: str) -> None:
    done = olla("bench", "m", option)

    assert done.returncode == 1
    assert text in done.stderr


def test_a_terminal_shows_a_table(terminal: Terminal) -> None:
    terminal.start("bench", "m", *SMALL)

    screen = terminal.wait_for("exit=0")

    lines = screen.splitlines()
    assert lines[0].startswith("STREAMS")
    assert [line[0] for line in lines[1:] if line[0] in "12"] == ["1", "2"]


def test_ctrl_c_leaves_at_once_and_ends_the_streams(daemon: FakeDaemon, terminal: Terminal) -> None:
    asked, left = threading.Event(), daemon.client_left
    words = generated(*["word"] * 1000).lines
    daemon.script(
        "POST /api/generate",
        Reply([{"response": "", "done": True}]),
        Reply([{"response": "", "done": True}]),
        Reply(words, on_arrival=asked.set, before_line=lambda _index: time.sleep(0.02)),
    )
    terminal.start("bench", "m", *SMALL)
    assert asked.wait(10)

    terminal.type("C-c")

    terminal.wait_for("exit=130")
    assert left.wait(10)
