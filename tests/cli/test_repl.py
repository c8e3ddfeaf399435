"""The prompt: what is typed in, what is asked, what stays.

Most tests type into prompt_toolkit's own pipe; those about the screen use a real terminal.
"""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from olla.cli.repl import NUM_HISTORY_LINES, SavedHistory, converse
from olla.cli.reply import View
from olla.client import Client
from olla.client.replies import ReplySettings, ShownModel
from olla.messages import Message
from olla.settings import Settings
from tests.cli.fake_daemon import FakeDaemon, Reply, chatted, failed, generated
from tests.cli.tmux import Terminal

PLACEHOLDER = ">>> Send a message (/? for help)"
ASSISTANT = {"role": "assistant", "content": "Hello there"}
CTRL_C, CTRL_D = "\x03", "\x04"

Typed = Callable[..., None]


@pytest.fixture
def typed(daemon: FakeDaemon, environment: dict[str, str]) -> Iterator[Typed]:
    """Hold a conversation in which these lines are typed, and then Ctrl-D."""
    daemon.script("POST /api/generate", generated(done_reason="load"))
    daemon.script("POST /api/chat", chatted("Hello", " there"))
    settings = Settings.from_env(environment)

    def run(*lines: str, shown: ShownModel | None = None) -> None:
        pipe.send_text("".join(f"{line}\r" for line in lines) + CTRL_D)
        model = shown or ShownModel()
        converse(Client(settings.address), ReplySettings("m"), model, View(), settings)

    with create_pipe_input() as pipe, create_app_session(input=pipe, output=DummyOutput()):
        yield run


@pytest.fixture
def prompt(daemon: FakeDaemon, terminal: Terminal) -> Terminal:
    """A terminal where `olla run m` waits for the first message."""
    daemon.script("POST /api/generate", generated(done_reason="load"))
    daemon.script("POST /api/chat", chatted("Hello", " there"))
    terminal.environment["OLLAMA_EDITOR"] = "sed -i s/$/!/"
    terminal.start("run", "m")
    terminal.wait_for(PLACEHOLDER)
    return terminal


def chats(daemon: FakeDaemon) -> list[Any]:
    return [request.json["messages"] for request in daemon.sent("POST /api/chat")]


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def test_a_conversation_goes_on(prompt: Terminal, daemon: FakeDaemon) -> None:
    prompt.enter("one")
    prompt.wait_for("Hello there")
    prompt.wait_for(PLACEHOLDER)
    prompt.enter("two")
    prompt.wait_for("Hello there", times=2)
    prompt.enter("/bye")

    screen = prompt.wait_for("exit=0")

    assert ">>> one\nHello there\n\n>>> two\nHello there\n\n>>> /bye\n" in screen
    assert chats(daemon) == [[user("one")], [user("one"), ASSISTANT, user("two")]]
    assert daemon.sent("POST /api/generate")[0].json == {"model": "m"}


def test_markdown_in_a_reply_is_styled_on_the_screen(prompt: Terminal, daemon: FakeDaemon) -> None:
    daemon.script("POST /api/chat", chatted("A **bo", "ld** word"))
    prompt.enter("one")
    prompt.wait_for("word")

    assert ">>> one\nA **\x1b[1mbold**\x1b[0m" in prompt.screen(escapes=True)


def test_ctrl_c_stops_a_reply_and_keeps_the_prompt(prompt: Terminal, daemon: FakeDaemon) -> None:
    going_on = threading.Event()
    words = [{"message": {"content": "word "}, "done": False}] * 100_000

    def before_line(index: int) -> None:
        if index == 1:
            assert going_on.wait(timeout=20)

    daemon.script("POST /api/chat", Reply(words, before_line=before_line), chatted("again"))
    prompt.enter("one")
    prompt.wait_for("word")

    prompt.type("C-c")
    prompt.wait_for(PLACEHOLDER)
    going_on.set()

    assert daemon.client_left.wait(timeout=20)
    prompt.enter("two")
    prompt.wait_for("again")
    assert chats(daemon)[-1] == [user("two")]


def test_the_screen_while_several_lines_are_typed(prompt: Terminal) -> None:
    prompt.enter('"""one')
    prompt.wait_for("... Press Enter to send")
    prompt.type("C-c", "C-c")

    prompt.wait_for("\nUse Ctrl + d or /bye to exit.\n>>> ")


def test_triple_quotes_hold_several_lines(typed: Typed, daemon: FakeDaemon) -> None:
    typed('"""one', "  two", 'three"""', '"""four"""', '"""', "five", '"""')

    assert [messages[-1] for messages in chats(daemon)] == [
        user("one\n  two\nthree"),
        user("four"),
        user("\nfive\n"),
    ]


def test_a_system_message_may_have_several_lines(typed: Typed, daemon: FakeDaemon) -> None:
    typed('/set system """Be kind.', 'Be brief."""', "hi")

    system = {"role": "system", "content": "Be kind.\nBe brief."}
    assert chats(daemon) == [[system, user("hi")]]


PNG = b"\x89PNG\r\n\x1a\n"
SEES = ShownModel(capabilities=("completion", "vision"))


def test_images_that_an_entry_names_go_along_and_stay(
    typed: Typed, daemon: FakeDaemon, tmp_path: Path
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(PNG)
    (tmp_path / "fake.png").write_bytes(b"text")

    typed(f"{path} what is it?", f"and {tmp_path}/fake.png", "/no.png", "more", shown=SEES)

    seen = {**user("what is it?"), "images": [base64.b64encode(PNG).decode()]}
    assert chats(daemon) == [[seen], [seen, ASSISTANT, user("more")]]


def test_a_path_is_a_command_to_a_model_that_does_not_see(
    typed: Typed, daemon: FakeDaemon, tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(PNG)

    typed(f"{tmp_path}/a.png what is it?", f"what is {tmp_path}/a.png")

    assert chats(daemon) == [[user(f"what is {tmp_path}/a.png")]]


def test_tab_is_eight_spaces(typed: Typed, daemon: FakeDaemon) -> None:
    typed("a\tb")

    assert chats(daemon) == [[user("a        b")]]


def test_tab_completes_commands_and_what_follows_them(typed: Typed, daemon: FakeDaemon) -> None:
    typed("/se\t para\t top_k\t 7", "/set f\tjson", "/set format j\t", "/nothing\t", "hi")

    request = daemon.sent("POST /api/chat")[0].json
    assert (request["options"], request["format"]) == ({"top_k": 7}, "json")


def test_tab_completes_the_names_of_models(typed: Typed, daemon: FakeDaemon) -> None:
    typed("/load smol\t", "hi")

    assert daemon.sent("POST /api/chat")[0].json["model"] == "smollm2:135m"


def test_tab_shows_what_could_follow(prompt: Terminal) -> None:
    prompt.type("/show ", "Tab")

    screen = prompt.wait_for("modelfile")
    assert all(part in screen for part in ("info", "license", "parameters", "template"))


def test_ctrl_j_begins_a_new_line(typed: Typed, daemon: FakeDaemon) -> None:
    typed("one\ntwo", '"""three\nfour"""')

    assert [messages[-1] for messages in chats(daemon)] == [user("one\ntwo"), user("three\nfour")]


def test_a_large_paste_is_one_entry(prompt: Terminal, daemon: FakeDaemon, tmp_path: Path) -> None:
    text = "\n".join(["word " * 19 + "end"] * 500)

    prompt.paste(text, tmp_path / "paste")
    prompt.type("Enter")
    prompt.wait_for("Hello there")

    assert chats(daemon) == [[user(text)]]


def test_ctrl_g_writes_the_entry_in_an_editor(
    prompt: Terminal, daemon: FakeDaemon, tmp_path: Path
) -> None:
    prompt.type("draft", "C-g")
    prompt.wait_for("draft!")
    prompt.type(" more", "Enter")
    prompt.wait_for("Hello there")

    assert chats(daemon) == [[user("draft! more")]]


def test_ctrl_c_while_another_model_is_loaded_keeps_the_prompt(
    prompt: Terminal, daemon: FakeDaemon
) -> None:
    arrived, going_on = threading.Event(), threading.Event()

    def on_arrival() -> None:
        arrived.set()
        going_on.wait(timeout=20)

    slow = Reply([{"response": "", "done": True}], on_arrival=on_arrival)
    daemon.script("POST /api/generate", slow)
    prompt.enter("/load other")
    assert arrived.wait(timeout=20)

    prompt.type("C-c")
    prompt.wait_for(PLACEHOLDER)
    going_on.set()
    prompt.enter("hi")
    prompt.wait_for("Hello there")

    assert daemon.sent("POST /api/chat")[0].json["model"] == "m"


def test_blank_entries_are_skipped(typed: Typed, daemon: FakeDaemon) -> None:
    typed("", "   ", '""""""', "hi")

    assert chats(daemon) == [[user("hi")]]


def test_ctrl_c_on_an_empty_line_says_how_to_leave(
    typed: Typed, capsys: pytest.CaptureFixture[str]
) -> None:
    typed(CTRL_C)

    assert "\nUse Ctrl + d or /bye to exit.\n" in capsys.readouterr().out


def test_ctrl_c_on_a_line_drops_it(
    typed: Typed, daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]
) -> None:
    typed(f"nonsense{CTRL_C}hi")

    assert chats(daemon) == [[user("hi")]]
    assert "Use Ctrl" not in capsys.readouterr().out


@pytest.mark.parametrize("entry", ["/bye", "/exit"])
def test_what_leaves(typed: Typed, daemon: FakeDaemon, entry: str) -> None:
    typed(entry, "hi")

    assert chats(daemon) == []


@pytest.mark.parametrize(
    ("route", "entry", "text"),
    [
        ("POST /api/chat", "one", "error: 500 Internal Server Error: it broke\n"),
        ("POST /api/show", "/show info", "error: it broke\n"),
    ],
)
def test_an_error_keeps_the_prompt(
    typed: Typed,
    daemon: FakeDaemon,
    capsys: pytest.CaptureFixture[str],
    route: str,
    entry: str,
    text: str,
) -> None:
    daemon.script(route, failed(500, "it broke"), chatted("Hello there"))

    typed(entry, "two")

    assert capsys.readouterr().err == text
    assert chats(daemon)[-1] == [user("two")]


def test_what_is_set_travels_with_the_next_message(typed: Typed, daemon: FakeDaemon) -> None:
    typed("/set parameter seed 7", "/set format json", "hi")

    request = daemon.sent("POST /api/chat")[0].json
    assert (request["options"], request["format"]) == ({"seed": 7}, "json")


def test_a_conversation_that_was_cut_is_told_once(
    typed: Typed, daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]
) -> None:
    last = {"message": {"content": "Hi"}, "done": True, "prompt_truncated_count": 30}
    daemon.script("POST /api/chat", Reply([last]))

    typed("one", "two")

    assert capsys.readouterr().err == (
        "Warning: the conversation no longer fits the context of the model; the oldest 30 tokens "
        "were left out; /set parameter num_ctx <number> raises it\n"
    )


def test_a_model_s_messages_are_shown_first(
    typed: Typed, capsys: pytest.CaptureFixture[str]
) -> None:
    typed(shown=ShownModel(messages=(Message("user", "Hi?"), Message("assistant", "Ho!"))))

    assert capsys.readouterr().out.startswith(">>> Hi?\nHo!\n\n")


def test_what_was_typed_is_kept_for_the_next_time(
    typed: Typed, environment: dict[str, str]
) -> None:
    typed("one", "/set nohistory", "two")

    path = Path(environment["OLLA_HOME"]) / "history"
    assert path.read_text() == "one\n/set nohistory\n"
    assert path.stat().st_mode & 0o777 == 0o600


def test_history_comes_back_with_the_arrows(
    typed: Typed, daemon: FakeDaemon, environment: dict[str, str]
) -> None:
    path = Path(environment["OLLA_HOME"]) / "history"
    path.parent.mkdir()
    path.write_text("older\nold\n")

    typed("\x1b[A\x1b[A")

    assert chats(daemon) == [[user("older")]]


def test_history_keeps_the_last_lines(tmp_path: Path) -> None:
    history = SavedHistory(tmp_path / "home" / "history", lambda: True)
    for number in range(NUM_HISTORY_LINES + 5):
        history.append_string(f"line {number}")
    history.append_string("two\nlines")

    lines = list(SavedHistory(tmp_path / "home" / "history", lambda: True).load_history_strings())

    assert len(lines) == NUM_HISTORY_LINES
    assert lines[:3] == ["lines", "two", f"line {NUM_HISTORY_LINES + 4}"]
