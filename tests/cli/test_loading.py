"""What is said while a model is loaded."""

from __future__ import annotations

import threading

import pytest

from olla.address import Address
from olla.cli.loading import describe_load, describe_place, load_status
from olla.client import Client
from olla.client.replies import QueuedRequest
from olla.names import ModelName
from olla.requests import Progress
from tests.cli.fake_daemon import FakeDaemon, Reply, generated
from tests.cli.tmux import Terminal

OURS = ModelName.parse("m")
LOADING = {"models": [], "loading": [{"model": "m:latest", "completed": 45, "total": 98_000_000}]}


@pytest.mark.parametrize(
    ("loading", "text"),
    [
        ([], ""),
        ([("other:latest", 1, 2)], ""),
        ([("m:latest", 0, 0)], "loading model"),
        ([("M:latest", 45_000_000, 98_000_000)], "loading model 45 % of 98 MB"),
        ([("other:latest", 1, 2), ("m:latest", 0, 0)], "waiting for another model to load"),
    ],
)
def test_a_load_says_where_it_stands(loading: list[tuple[str, int, int]], text: str) -> None:
    reports = [Progress(name, "", total, done) for name, done, total in loading]

    assert describe_load(reports, OURS) == text


@pytest.mark.parametrize(
    ("queue", "text"),
    [
        ([], ""),
        ([QueuedRequest("theirs-1", "", "m", "queued", 1)], ""),
        ([QueuedRequest("ours-2", "", "m", "loading", 0)], ""),
        (
            [
                QueuedRequest("theirs-1", "", "m", "queued", 1),
                QueuedRequest("ours-2", "", "m", "queued", 2),
            ],
            "waiting for a turn, place 2",
        ),
    ],
)
def test_a_place_in_the_queue_is_ours(queue: list[QueuedRequest], text: str) -> None:
    assert describe_place(queue, "ours") == text


@pytest.mark.parametrize("model", ["m", "no/such/na/me/"])
def test_a_daemon_that_does_not_answer_is_silence(daemon: FakeDaemon, model: str) -> None:
    assert load_status(Client(Address.parse(daemon.address)), model)() == ""


def test_a_place_in_the_queue_costs_one_question(daemon: FakeDaemon) -> None:
    queue = [{"model": "m:latest", "request_id": "x-1", "state": "queued", "position": 2}]
    daemon.script("GET /api/ps", Reply([{"loading": [], "queue": queue}]))
    client = Client(Address.parse(daemon.address))
    client.id = "x"

    assert load_status(client, "m")() == "waiting for a turn, place 2"
    assert len(daemon.sent("GET /api/ps")) == 1


def test_the_spinner_tells_how_far_the_load_is(daemon: FakeDaemon, terminal: Terminal) -> None:
    seen = threading.Event()
    daemon.script("GET /api/ps", Reply([LOADING]))
    reply = generated("Hello")
    daemon.script("POST /api/generate", Reply(reply.lines, before_line=lambda _: _wait(seen)))
    terminal.start("run", "m", "hi")

    terminal.wait_for("loading model 0 % of 98 MB")
    seen.set()

    assert terminal.wait_for("exit=0") == "Hello\n\nexit=0"


def test_ctrl_c_in_a_load_leaves_a_clean_screen(daemon: FakeDaemon, terminal: Terminal) -> None:
    gone = threading.Event()
    daemon.script("GET /api/ps", Reply([LOADING]))
    reply = generated("Hello")
    daemon.script("POST /api/generate", Reply(reply.lines, before_line=lambda _: _wait(gone)))
    terminal.start("run", "m", "hi")

    terminal.wait_for("loading model")
    terminal.type("C-c")
    screen = terminal.wait_for("exit=0")
    gone.set()

    assert "loading" not in screen
    assert "Traceback" not in screen


def _wait(event: threading.Event) -> None:
    assert event.wait(timeout=20)
