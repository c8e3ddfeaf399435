"""A wheel from a Python package index, through the pip of this Python.

pip only downloads: nothing is built, installed or imported. What pip leaves in the middle of a
download lies in the caller's folder too, so removing that folder removes everything.
"""

from __future__ import annotations

import asyncio
import re
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import AsyncGenerator, AsyncIterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from olla.errors import SourceError
from olla.requests import Progress

# pip has no option for its folder of temporary files, which it takes from `tempfile`.
_RUN_PIP = (
    "import runpy, sys, tempfile; tempfile.tempdir = sys.argv.pop(1); "
    "runpy.run_module('pip', run_name='__main__', alter_sys=True)"
)
_DOWNLOAD = (
    "download",
    "--no-deps",
    "--only-binary=:all:",
    "--no-input",
    "--no-cache-dir",  # the store keeps the bytes; once is enough
    "--disable-pip-version-check",
)
_RAW_PROGRESS = re.compile(r"Progress (\d+) of (\d+)")
_FIRST_WITH_RAW_PROGRESS = (24, 1)


async def download_wheel(
    requirement: str, folder: Path, arguments: tuple[str, ...]
) -> AsyncGenerator[Progress, None]:
    """Put the wheel of `name==version` into `folder`, an empty one, telling how far it is.

    Args:
        arguments: more options for pip, such as where the index is.

    Raises:
        SourceError: pip failed; the text ends with its last word.
    """
    status = f"downloading {requirement.replace('==', ' ')}"
    yield Progress(status)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _RUN_PIP, str(folder)),
        *(*_DOWNLOAD, f"--progress-bar={_progress_bar()}", "-d", str(folder)),
        *(*arguments, requirement),
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=STDOUT,
        cwd=folder,  # Python finds modules there, and it is empty
    )
    last = ""
    try:
        async for line in _lines(process):
            if match := _RAW_PROGRESS.fullmatch(line):
                yield Progress(status, "", int(match[2]), int(match[1]))
            else:
                last = line
        code = await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if code:
        reason = last.removeprefix("ERROR: ")
        raise SourceError(f"cannot download {requirement.replace('==', ' ')} with pip: {reason}")


async def _lines(process: Process) -> AsyncIterator[str]:
    """What pip says, line by line, until it ends."""
    assert process.stdout is not None
    async for data in process.stdout:
        if line := data.decode("utf-8", "replace").strip():
            yield line


def _progress_bar() -> str:
    """ "raw" is lines that a program can read; older versions of pip do not have it."""
    try:
        numbers = [int(part) for part in version("pip").split(".")[:2] if part.isdigit()]
    except PackageNotFoundError:
        return "off"
    return "raw" if tuple(numbers) >= _FIRST_WITH_RAW_PROGRESS else "off"
