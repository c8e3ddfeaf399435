"""The prompt: entries come in, replies go out, the conversation grows. On prompt_toolkit.

The only module that imports it, and imported only when a person is at the terminal. A reply
that is interrupted or fails leaves the conversation as it was before the question.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import click
from prompt_toolkit import PromptSession
from prompt_toolkit.application import run_in_terminal
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.history import History
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.key_binding.bindings.completion import display_completions_like_readline

from olla.cli.attachments import Attached, attach, begins_with_file
from olla.cli.conversation import Conversation
from olla.cli.editor import edit
from olla.cli.loading import load_status
from olla.cli.reply import View, show_reply
from olla.cli.slash import TRIPLE_QUOTE, run_slash
from olla.cli.slash_help import words_after
from olla.cli.slash_models import show_stored
from olla.cli.terminal import waiting
from olla.cli.window import AT_THE_PROMPT, warn_if_cut
from olla.client import Client
from olla.client.replies import ReplySettings, ShownModel
from olla.errors import BadInput, ClientError
from olla.messages import Message
from olla.requests import Timings
from olla.settings import Settings

NUM_HISTORY_LINES = 100

_PROMPT, _CONTINUATION = ">>> ", "... "
_GREY = "fg:ansibrightblack"
_TAB = " " * 8


def converse(
    client: Client, reply: ReplySettings, shown: ShownModel, view: View, settings: Settings
) -> None:
    """Load the model and talk until the person leaves."""
    with waiting(load_status(client, reply.model)):
        client.load(reply)
    show_stored(shown.messages)
    conversation = Conversation(
        client,
        reply,
        view,
        keeps_history=settings.history,
        sees=shown.sees,
        stored=shown.messages,
    )
    history = SavedHistory(settings.home / "history", lambda: conversation.keeps_history)
    reader = EntryReader(history, SlashCompleter(client), settings.editor)
    while (entry := reader.read()) is not None:
        if not entry.startswith("/") or (conversation.sees and begins_with_file(entry)):
            _ask(conversation, entry)
        elif not _obey(conversation, entry):
            return


def _obey(conversation: Conversation, entry: str) -> bool:
    try:
        return run_slash(conversation, entry)
    except KeyboardInterrupt:
        click.echo()
    except ClientError as error:
        click.echo(f"error: {error}", err=True)
    return True


def _ask(conversation: Conversation, text: str) -> None:
    try:
        asked = attach(text) if conversation.sees else Attached(text)
        messages = (*conversation.messages, Message("user", asked.text, images=asked.images))
        chunks = conversation.client.chat(conversation.settings, messages)
        status = load_status(conversation.client, conversation.settings.model)
        shown = show_reply(chunks, conversation.view, status)
    except KeyboardInterrupt:
        click.echo("\n")
    except (ClientError, BadInput, OSError) as error:
        click.echo(f"error: {error}", err=True)
    else:
        conversation.messages = [*messages, Message("assistant", shown.content)]
        _warn_once(conversation, shown.timings)


def _warn_once(conversation: Conversation, timings: Timings) -> None:
    if not conversation.was_warned:
        model = conversation.settings.model
        conversation.was_warned = warn_if_cut(conversation.client, model, timings, AT_THE_PROMPT)


class EntryReader:
    """Reads entries: a line, or the lines between triple quotes."""

    def __init__(self, history: History, completer: Completer, editor: str) -> None:
        self._session: PromptSession[str] = PromptSession(
            history=history,
            completer=completer,
            complete_while_typing=False,
            enable_suspend=True,
            key_bindings=_keys(editor),
            prompt_continuation=_CONTINUATION,
        )

    def read(self) -> str | None:
        """The next entry that is not blank; None when the person leaves."""
        while True:
            try:
                entry = self._read_entry()
            except KeyboardInterrupt:
                if not self._session.default_buffer.text:
                    click.echo("\nUse Ctrl + d or /bye to exit.")
            except EOFError:
                click.echo()
                return None
            else:
                if entry:
                    return entry

    def _read_entry(self) -> str:
        line = self._read_line(_PROMPT, "Send a message (/? for help)").strip()
        opening, quoted = _split_quoted(line)
        if quoted is None:
            return line
        while not quoted.endswith(TRIPLE_QUOTE):
            quoted += "\n" + self._read_line(_CONTINUATION, "Press Enter to send").rstrip()
        text = quoted.removesuffix(TRIPLE_QUOTE)
        return f"{opening}{TRIPLE_QUOTE}{text}{TRIPLE_QUOTE}" if opening else text

    def _read_line(self, prompt: str, placeholder: str) -> str:
        return self._session.prompt(prompt, placeholder=[(_GREY, placeholder)])


def _keys(editor: str) -> KeyBindings:
    """What prompt_toolkit does not do of itself, or does otherwise."""
    keys = KeyBindings()

    @keys.add("tab")
    def complete_or_indent(event: KeyPressEvent) -> None:
        if event.current_buffer.document.text_before_cursor.startswith("/"):
            display_completions_like_readline(event)
        else:
            event.current_buffer.insert_text(_TAB)

    @keys.add("c-j")
    def break_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("c-g")
    async def write_in_editor(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        text = await run_in_terminal(lambda: edit(buffer.text, editor), in_executor=True)
        buffer.document = Document(text, len(text))

    return keys


class SlashCompleter(Completer):
    """The words that go on with a slash command; the names of models behind /load."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def get_completions(self, document: Document, _event: CompleteEvent) -> Iterable[Completion]:
        start, _, begun = document.text_before_cursor.rpartition(" ")
        words = self._models() if start == "/load" else words_after(start)
        for word in words:
            if word.startswith(begun):
                yield Completion(word, start_position=-len(begun))

    def _models(self) -> Iterable[str]:
        try:
            return [model.name for model in self._client.list()]
        except ClientError:
            return ()


def _split_quoted(line: str) -> tuple[str, str | None]:
    """What stands before the triple quotes that open an entry, and what follows them so far."""
    for opening in ("", "/set system "):
        if line.startswith(opening + TRIPLE_QUOTE):
            return opening, line.removeprefix(opening + TRIPLE_QUOTE)
    return "", None


class SavedHistory(History):
    """The last lines typed, one a line in a file that only its owner reads."""

    def __init__(self, path: Path, is_kept: Callable[[], bool]) -> None:
        super().__init__()
        self._path = path
        self._is_kept = is_kept

    def load_history_strings(self) -> Iterable[str]:
        return reversed(self._lines())

    def store_string(self, string: str) -> None:
        if not self._is_kept():
            return
        lines = [*self._lines(), *string.splitlines()][-NUM_HISTORY_LINES:]
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # mkstemp makes the file 0600, and the rename leaves no moment without a history.
        handle, temporary = tempfile.mkstemp(dir=self._path.parent, prefix=".history-")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
        Path(temporary).replace(self._path)

    def _lines(self) -> list[str]:
        if not self._path.exists():
            return []
        return self._path.read_text(encoding="utf-8", errors="replace").splitlines()
