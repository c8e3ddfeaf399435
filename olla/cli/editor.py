"""A text in the person's own editor."""

from __future__ import annotations

import shlex
import subprocess
import tempfile
from pathlib import Path

import click


def edit(text: str, editor: str) -> str:
    """What the editor made of `text`; an editor that fails, or is not there, leaves it as it is.

    Args:
        editor: a command line; the file's path is added to it.
    """
    with tempfile.TemporaryDirectory(prefix="olla-") as folder:
        path = Path(folder) / "message.txt"
        path.write_text(text, encoding="utf-8")
        try:
            subprocess.run([*shlex.split(editor), str(path)], check=True)
            edited = path.read_text(encoding="utf-8")
        except (OSError, ValueError, subprocess.CalledProcessError) as error:
            click.echo(f"error: the editor {editor!r} (OLLA_EDITOR) failed: {error}", err=True)
            return text
    return edited.removesuffix("\n")
