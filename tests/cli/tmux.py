"""A terminal to run commands in: tmux, seen as a person sees it."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

PATIENCE_S = 20.0
POLL_S = 0.05


class Terminal:
    """80 columns by 24 lines with one command in it; the screen stays when the command ends."""

    def __init__(self, socket: Path, environment: Mapping[str, str]) -> None:
        self._socket = socket
        self.environment = {**environment, "LC_ALL": "C.UTF-8"}

    def start(self, *args: str) -> None:
        """Run `olla` with these arguments; its exit code is the last line of the screen."""
        command = shlex.join([sys.executable, "-m", "olla", *args])
        size = ("-x", "80", "-y", "24")
        self._tmux(["new-session", "-d", *size, f"{command}; echo exit=$?; exec cat"])

    def type(self, *keys: str) -> None:
        """Press keys, by tmux's names: "Enter", "C-c", or text."""
        self._tmux(["send-keys", *keys])

    def enter(self, text: str) -> None:
        self._tmux(["send-keys", "-l", text])
        self.type("Enter")

    def paste(self, text: str, file: Path) -> None:
        """Paste as terminals do, between marks; tmux reads the text from `file`."""
        file.write_text(text)
        self._tmux(["load-buffer", str(file)])
        self._tmux(["paste-buffer", "-p"])

    def screen(self, *, escapes: bool = False) -> str:
        """What stands on the screen and above it, without blank lines at the end."""
        flags = ["-e"] if escapes else []
        return self._tmux(["capture-pane", "-p", "-S", "-", *flags]).rstrip()

    def wait_for(self, text: str, *, times: int = 1) -> str:
        """The screen, once `text` stands there that many times."""
        deadline = time.monotonic() + PATIENCE_S
        while (screen := self.screen()).count(text) < times:
            assert time.monotonic() < deadline, f"{text!r} is not on the screen:\n{screen}"
            time.sleep(POLL_S)
        return screen

    def close(self) -> None:
        self._tmux(["kill-server"])

    def _tmux(self, args: Sequence[str]) -> str:
        return subprocess.run(
            ["tmux", "-u", "-f", "/dev/null", "-S", str(self._socket), *args],
            env=self.environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
