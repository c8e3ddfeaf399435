"""What shells are told when they complete a command line."""

from __future__ import annotations

import subprocess
import sys

import pytest

from olla.cli import COMMANDS
from tests.cli.conftest import Olla
from tests.cli.fake_daemon import FakeDaemon, failed


def offered(environment: dict[str, str], line: str) -> list[str]:
    """The words that bash is offered for the last word of a line."""
    asked = {
        "_OLLA_COMPLETE": "bash_complete",
        "COMP_WORDS": line,
        "COMP_CWORD": str(line.count(" ")),
    }
    done = subprocess.run(
        [sys.executable, "-c", "from olla.cli import main; main()"],
        env=environment | asked,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    return [word.removeprefix("plain,") for word in done.stdout.split()]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("olla ", list(COMMANDS)),
        ("olla se", ["serve"]),
        ("olla run --k", ["--keepalive"]),
        ("olla cp --h", ["--help"]),
        ("olla key ", ["create", "list", "revoke"]),
        ("olla run ", ["smollm2:135m"]),
        ("olla rm one smol", ["smollm2:135m"]),
        ("olla show x", []),
    ],
)
def test_what_is_offered(
    environment: dict[str, str], daemon: FakeDaemon, line: str, words: list[str]
) -> None:
    assert offered(environment, line) == words


def test_a_server_that_refuses_leaves_the_line_alone(
    environment: dict[str, str], daemon: FakeDaemon
) -> None:
    daemon.script("GET /api/tags", failed(500, "it broke"))

    assert offered(environment, "olla run ") == []


@pytest.mark.parametrize(
    ("shell", "text"),
    [("bash", "complete -o nosort"), ("zsh", "#compdef olla"), ("fish", "complete --no-files")],
)
def test_each_shell_has_its_script(olla: Olla, shell: str, text: str) -> None:
    done = olla("completion", shell)

    assert (done.returncode, done.stderr) == (0, "")
    assert text in done.stdout
    assert "_OLLA_COMPLETE" in done.stdout


def test_bash_takes_its_script(olla: Olla) -> None:
    script = olla("completion", "bash").stdout

    done = subprocess.run(
        ["bash", "-c", f"{script}\ncomplete -p olla"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "complete -o nosort -F _olla_completion olla\n"


def test_other_shells_are_refused(olla: Olla) -> None:
    done = olla("completion", "tcsh")

    assert done.stderr == 'Error: unknown shell "tcsh" (must be one of bash, zsh, fish)\n'
    assert done.returncode == 1
