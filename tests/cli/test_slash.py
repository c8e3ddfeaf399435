"""The prompt's slash commands on a conversation, without a terminal."""

from __future__ import annotations

import pytest

from olla.address import Address
from olla.cli.conversation import Conversation
from olla.cli.reply import View
from olla.cli.slash import run_slash
from olla.client import Client
from olla.client.replies import ReplySettings
from olla.messages import Message
from tests.cli.fake_daemon import SHOW, FakeDaemon, Reply

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def conversation(daemon: FakeDaemon) -> Conversation:
    return Conversation(Client(Address.parse(daemon.address)), ReplySettings("m"), View())


@pytest.mark.parametrize("entry", ["/bye", "/exit"])
def test_these_end_the_conversation(conversation: Conversation, entry: str) -> None:
    assert not run_slash(conversation, entry)


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ("/nope", "Unknown command '/nope'. Type /? for help"),
        ("/nope more", "Unknown command '/nope'. Type /? for help"),
        ("/set nope", "Unknown command '/set nope'. Type /? for help"),
        ("/show nope", "Unknown command '/show nope'. Type /? for help"),
        ("/set wordwrap", "Set 'wordwrap' mode."),
        ("/set nowordwrap", "Set 'nowordwrap' mode."),
        ("/set verbose", "Set 'verbose' mode."),
        ("/set quiet", "Set 'quiet' mode."),
        ("/set format json", "Set format to 'json' mode."),
        ("/set format", "Invalid or missing format. For 'json' mode use '/set format json'"),
        ("/set format xml", "Invalid or missing format. For 'json' mode use '/set format json'"),
        ("/set noformat", "Disabled format."),
        ("/set think hard", "Invalid level. Levels are high, medium, low, max"),
        ("/set nothink", "Set 'nothink' mode."),
        ("/set history", ""),
        ("/set nohistory", ""),
        ("/set parameter temperature 0.5", "Set parameter 'temperature' to '0.5'"),
        ("/set parameter stop a b", "Set parameter 'stop' to 'a, b'"),
        ("/set parameter nope 1", "Couldn't set parameter: \"unknown parameter 'nope'\""),
        ("/set parameter seed x", 'Couldn\'t set parameter: "invalid int value [x]"'),
        ("/set system Be kind.", "Set system message."),
        ("/clear", "Cleared session context"),
        ("/load", "Usage:\n  /load <modelname>"),
        ("/load a b", "Usage:\n  /load <modelname>"),
        ("/save", "Usage:\n  /save <modelname>"),
        ("/save a b", "Usage:\n  /save <modelname>"),
        ("/save a//b", "error: The model name 'a//b' is invalid"),
        ("/show system", "Be brief."),
        ("/show template", "{{ .Prompt }}"),
        ("/show modelfile", "# Modelfile\nFROM x"),
        ("/show license", "First line\n\n second line\nthird line"),
    ],
)
def test_answers_on_stdout(
    conversation: Conversation, capsys: Captured, entry: str, text: str
) -> None:
    assert run_slash(conversation, entry)

    assert capsys.readouterr() == (f"{text}\n" if text else "", "")


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ("/?", "/bye            Exit"),
        ("/help", "/bye            Exit"),
        ("/? set", "/set parameter ..."),
        ("/? show", "/show info"),
        ("/help shortcuts", "Ctrl + d"),
        ("/set", "/set parameter ..."),
        ("/set system", "/set system <string>"),
        ("/set parameter seed", "/set parameter seed <integer>"),
        ("/show", "/show info"),
        ("/show info", "    architecture        llama      "),
    ],
)
def test_help_and_info_go_to_stderr(
    conversation: Conversation, capsys: Captured, entry: str, text: str
) -> None:
    assert run_slash(conversation, entry)

    out, err = capsys.readouterr()
    assert out == ""
    assert text in err


@pytest.mark.parametrize(
    ("part", "text"),
    [
        ("license", "No license was specified for this model."),
        ("system", "No system message was specified for this model."),
        ("template", "No prompt template was specified for this model."),
    ],
)
def test_a_part_that_a_model_lacks(
    conversation: Conversation, daemon: FakeDaemon, capsys: Captured, part: str, text: str
) -> None:
    daemon.script("POST /api/show", Reply([{**SHOW, part: ""}]))

    run_slash(conversation, f"/show {part}")

    assert capsys.readouterr().out == f"{text}\n"


def test_show_parameters_tells_the_model_s_from_the_user_s(
    conversation: Conversation, capsys: Captured
) -> None:
    for entry in ("seed 7", "temperature 0", "stop a b", "use_mmap true"):
        run_slash(conversation, f"/set parameter {entry}")
    capsys.readouterr()

    run_slash(conversation, "/show parameters")

    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Model defined parameters:"
    assert lines[2] == "  temperature                    0.5"
    assert lines[4] == "User defined parameters:"
    assert lines[5:] == [
        "  seed                           7",
        "  temperature                    0",
        '  stop                           "a"',
        '  stop                           "b"',
        "  use_mmap                       true",
        "",
    ]


def test_parameters_are_typed_and_add_up(conversation: Conversation) -> None:
    for entry in ("/set parameter temperature 0.5", "/set parameter stop a b"):
        run_slash(conversation, entry)

    assert conversation.settings.options == {"temperature": 0.5, "stop": ["a", "b"]}


def test_a_system_message_replaces_the_one_directly_before(conversation: Conversation) -> None:
    conversation.messages = [Message("user", "hi")]

    for text in ("One.", '"""Two.\nThree."""'):
        run_slash(conversation, f"/set system {text}")

    assert conversation.messages == [Message("user", "hi"), Message("system", "Two.\nThree.")]


def test_clear_keeps_the_system_message(conversation: Conversation) -> None:
    run_slash(conversation, "/set system Be kind.")
    conversation.messages.append(Message("user", "hi"))

    run_slash(conversation, "/clear")

    assert conversation.messages == [Message("system", "Be kind.")]


def test_show_system_tells_the_one_that_was_set(
    conversation: Conversation, capsys: Captured
) -> None:
    run_slash(conversation, "/set system Be kind.")
    capsys.readouterr()

    run_slash(conversation, "/show system")

    assert capsys.readouterr().out == "Be kind.\n"


def test_format_and_history_change_the_conversation(conversation: Conversation) -> None:
    for entry in ("/set format json", "/set nohistory", "/set verbose"):
        run_slash(conversation, entry)

    assert conversation.settings.format == "json"
    assert not conversation.keeps_history
    assert conversation.view.verbose


@pytest.mark.parametrize(
    ("entry", "think", "text"),
    [
        ("/set think", True, "Set 'think' mode.\n"),
        ("/set think low", "low", "Set 'think' mode to 'low'.\n"),
        ("/set nothink", False, "Set 'nothink' mode.\n"),
    ],
)
def test_thinking_is_set(
    conversation: Conversation, capsys: Captured, entry: str, think: bool | str, text: str
) -> None:
    run_slash(conversation, entry)

    assert capsys.readouterr().out == text
    assert conversation.settings.think == think


@pytest.mark.parametrize(
    ("capabilities", "warning"),
    [
        (["completion"], 'warning: model "m" does not support thinking output\n'),
        (["completion", "thinking"], ""),
    ],
)
def test_a_model_that_cannot_think_is_told(
    conversation: Conversation,
    daemon: FakeDaemon,
    capsys: Captured,
    capabilities: list[str],
    warning: str,
) -> None:
    daemon.script("POST /api/show", Reply([{**SHOW, "capabilities": capabilities}]))

    run_slash(conversation, "/set think")

    assert capsys.readouterr().err == warning


@pytest.mark.parametrize("entry", ["/clear", "/set parameter num_ctx 8192"])
def test_a_new_window_may_be_warned_of_again(conversation: Conversation, entry: str) -> None:
    conversation.was_warned = True
    run_slash(conversation, "/set parameter seed 1")
    assert conversation.was_warned

    run_slash(conversation, entry)

    assert not conversation.was_warned
