"""What moves on a real terminal: bars, the spinner, wrapped words, colours."""

from __future__ import annotations

import threading

import pytest

from tests.cli.fake_daemon import FakeDaemon, Reply, generated
from tests.cli.tmux import Terminal

LAYER = {"status": "pulling 6a0746a1ec1a", "digest": "sha256:6a", "total": 2_000_000_000}
THOUGHT = Reply(
    [
        {"response": "", "thinking": "hm", "done": False},
        {"response": "Yes.", "done": False},
        {"response": "", "done": True},
    ]
)


def test_pull_shows_bars_that_end_full(daemon: FakeDaemon, terminal: Terminal) -> None:
    seen = threading.Event()
    daemon.script(
        "POST /api/pull",
        Reply(
            [
                {"status": "pulling manifest"},
                {**LAYER, "completed": 840_000_000},
                {**LAYER, "completed": 2_000_000_000},
                {"status": "success"},
            ],
            before_line=lambda index: None if index < 2 else _wait(seen),
        ),
    )
    terminal.start("pull", "m")

    half = terminal.wait_for(" 42% ▕██")
    seen.set()
    whole = terminal.wait_for("exit=0")

    assert "▏ 840 MB/2 GB" in half
    lines = [line.rstrip() for line in whole.splitlines()]
    assert lines[0] == "pulling manifest"
    assert lines[1].startswith("pulling 6a0746a1ec1a: 100% ▕███")
    assert lines[1].endswith("█▏ 2 GB")
    assert lines[2:] == ["success", "exit=0"]


def test_ctrl_c_leaves_the_rows_as_they_were(daemon: FakeDaemon, terminal: Terminal) -> None:
    gone = threading.Event()
    daemon.script(
        "POST /api/pull",
        Reply(
            [
                {"status": "pulling manifest"},
                {**LAYER, "status": f"pulling {'a' * 90}", "completed": 840_000_000},
                {"status": "success"},
            ],
            before_line=lambda index: None if index < 2 else _wait(gone),
        ),
    )
    terminal.start("pull", "m")

    terminal.wait_for(" 42% ")
    terminal.type("C-c")
    screen = terminal.wait_for("exit=130")
    gone.set()

    assert screen.count("pulling manifest") == 1


def test_an_error_in_mid_line_stands_below_it(daemon: FakeDaemon, terminal: Terminal) -> None:
    daemon.script("POST /api/generate", Reply([{"response": "Hel"}, {"error": "it broke"}]))
    terminal.start("run", "m", "hi")

    assert terminal.wait_for("exit=1") == "Hel\nError: it broke\nexit=1"


def test_a_spinner_turns_until_the_first_word(daemon: FakeDaemon, terminal: Terminal) -> None:
    seen = threading.Event()
    reply = generated("Hello", " there")
    daemon.script("POST /api/generate", Reply(reply.lines, before_line=lambda _index: _wait(seen)))
    terminal.start("run", "m", "hi")

    terminal.wait_for("⠙")
    terminal.wait_for("⠹")
    seen.set()

    assert terminal.wait_for("exit=0") == "Hello there\n\nexit=0"


def test_words_wrap_at_the_edge(daemon: FakeDaemon, terminal: Terminal) -> None:
    daemon.script("POST /api/generate", generated(*["wonder", "ful "] * 20))
    terminal.start("run", "m", "hi")

    screen = terminal.wait_for("exit=0")

    assert [line.rstrip() for line in screen.splitlines()[:3]] == [
        " ".join(["wonderful"] * 7),
        " ".join(["wonderful"] * 7),
        " ".join(["wonderful"] * 6),
    ]


def test_words_do_not_wrap_when_told_so(daemon: FakeDaemon, terminal: Terminal) -> None:
    daemon.script("POST /api/generate", generated(*["wonder", "ful "] * 20))
    terminal.start("run", "m", "hi", "--nowordwrap")

    assert terminal.wait_for("exit=0").startswith(" ".join(["wonderful"] * 8) + "\n")


@pytest.mark.parametrize(("no_color", "is_grey"), [("", True), ("1", False)])
def test_thinking_is_grey_unless_colours_are_off(
    daemon: FakeDaemon,
    environment: dict[str, str],
    terminal: Terminal,
    no_color: str,
    is_grey: bool,
) -> None:
    daemon.script("POST /api/generate", THOUGHT)
    terminal.environment["NO_COLOR"] = no_color
    terminal.start("run", "m", "hi")
    terminal.wait_for("exit=0")

    screen = terminal.screen(escapes=True)

    assert ("\x1b[90m" in screen) is is_grey
    assert "Yes." in screen


def _wait(event: threading.Event) -> None:
    assert event.wait(timeout=20)
