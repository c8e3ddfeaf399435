"""/list, /load and /save on a conversation, without a terminal."""

from __future__ import annotations

import pytest

from olla.address import Address
from olla.cli.conversation import Conversation
from olla.cli.reply import View
from olla.cli.slash import run_slash
from olla.client import Client
from olla.client.replies import ReplySettings
from olla.errors import ClientError
from olla.messages import Message
from tests.cli.fake_daemon import SHOW, FakeDaemon, Reply, failed

Captured = pytest.CaptureFixture[str]
GREETING = {"role": "assistant", "content": "Ho!"}


@pytest.fixture
def conversation(daemon: FakeDaemon) -> Conversation:
    settings = ReplySettings("m", options={"seed": 7})
    conversation = Conversation(Client(Address.parse(daemon.address)), settings, View())
    conversation.set_system("Be kind.")
    conversation.messages += [Message("user", "hi"), Message("assistant", "Hello")]
    return conversation


@pytest.mark.parametrize(("entry", "count"), [("/list", 1), ("/list SMOL", 1), ("/list x", 0)])
def test_list_is_the_table_of_models(
    conversation: Conversation, capsys: Captured, entry: str, count: int
) -> None:
    run_slash(conversation, entry)

    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["NAME", "ID", "SIZE", "MODIFIED"]
    assert [row.split()[0] for row in rows] == ["smollm2:135m"] * count


def test_load_begins_anew_with_another_model(
    conversation: Conversation, daemon: FakeDaemon, capsys: Captured
) -> None:
    shown = {**SHOW, "capabilities": ["completion", "vision"], "messages": [GREETING]}
    daemon.script("POST /api/show", Reply([shown]))

    run_slash(conversation, "/load other")

    assert capsys.readouterr().out == "Loading model 'other'\nHo!\n\n"
    assert conversation.settings == ReplySettings("other", options={"seed": 7})
    assert conversation.messages == [Message("system", "Be kind.")]
    assert conversation.sees
    assert daemon.requests[-1].json == {"model": "other", "options": {"seed": 7}}


@pytest.mark.parametrize(
    ("capabilities", "before", "after"),
    [
        (["thinking"], None, True),
        (["thinking"], False, False),
        (["thinking"], "low", "low"),
        (["completion"], True, None),
    ],
)
def test_load_thinks_if_the_model_can(
    conversation: Conversation,
    daemon: FakeDaemon,
    capabilities: list[str],
    before: bool | str | None,
    after: bool | str | None,
) -> None:
    daemon.script("POST /api/show", Reply([{**SHOW, "capabilities": capabilities}]))
    conversation.settings = ReplySettings("m", think=before)

    run_slash(conversation, "/load other")

    assert conversation.settings.think == after


def test_a_model_that_is_missing_leaves_the_old_one(
    conversation: Conversation, daemon: FakeDaemon, capsys: Captured
) -> None:
    daemon.script("POST /api/show", failed(404, "model 'x' not found"))

    run_slash(conversation, "/load x")

    assert capsys.readouterr().out == "Loading model 'x'\nCouldn't find model 'x'\n"
    assert (conversation.settings.model, len(conversation.messages)) == ("m", 3)


def test_a_load_that_fails_leaves_the_old_model(
    conversation: Conversation, daemon: FakeDaemon
) -> None:
    daemon.script("POST /api/generate", failed(500, "it broke"))

    with pytest.raises(ClientError, match="it broke"):
        run_slash(conversation, "/load x")

    assert (conversation.settings.model, len(conversation.messages)) == ("m", 3)


def test_save_keeps_what_was_set_and_said(
    conversation: Conversation, daemon: FakeDaemon, capsys: Captured
) -> None:
    daemon.script("POST /api/create", Reply([{"status": "success"}]))
    conversation.stored = (Message("assistant", "Ho!"),)

    run_slash(conversation, "/save mine")

    assert capsys.readouterr().out == "Created new model 'mine'\n"
    assert daemon.requests[-1].json == {
        "model": "mine",
        "from": "m",
        "system": "Be kind.",
        "parameters": {"seed": 7},
        "messages": [
            GREETING,
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "Hello"},
        ],
    }
