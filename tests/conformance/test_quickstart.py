"""docs/quickstart.md as a newcomer follows it: one shell, every command, in order."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.weights

PAGE = Path(__file__).parents[2] / "docs" / "quickstart.md"
ADDRESS = "127.0.0.1:11434"


def commands() -> list[str]:
    """The page's blocks of commands."""
    return re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A machine of a newcomer's: `olla` on the path, nothing in its home."""
    programs = tmp_path / "bin"
    programs.mkdir()
    olla = programs / "olla"
    olla.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m olla "$@"\n')
    olla.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "OLLA_HOME": str(tmp_path / "home"),
        "OLLA_HOST": f"127.0.0.1:{free_port()}",
    }
    yield environment
    subprocess.run([olla, "shutdown"], env=environment, check=False, timeout=60)


def test_every_command_of_the_page_does_what_the_page_says(
    environment: dict[str, str], tmp_path: Path
) -> None:
    script = "\n".join(f"echo '== {n}'\n{block}" for n, block in enumerate(commands()))
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script.replace(ADDRESS, environment["OLLA_HOST"])],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    _, asked, listed, chat, completion, made, keys, end = re.split(r"== \d+\n", done.stdout)
    assert "starting it in the background" in done.stderr
    assert len(asked.strip()) > 3
    assert listed.count("smollm2:135m") == 2
    assert '"done":true' in chat
    assert '"object":"chat.completion"' in completion
    assert "SYSTEM You answer in one short sentence." in made
    assert "brief:latest" in keys and '"object":"list"' in keys and "revoked 'me'" in keys
    assert end == "deleted 'brief'\n"
