"""A model written to files by a process of its own: the job, what it reports, and its handle.

The daemon and the command line know no torch, and what a conversion takes in memory is free when
its process ends. The job is one line of JSON on the child's stdin, its reports lines on stdout.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Generator, Iterator

import msgspec

from olla.errors import BadInput, RunnerError
from olla.requests import Progress
from olla.runner.protocol import Adapter, Files


class Conversion(msgspec.Struct, tag=True, frozen=True):
    """`files` as those of Load. `format` is "gguf" or "hf"; `output` a file or a new folder.

    `quantization` names one of GGUF's; `merge` lays the adapters over the weights for good, else
    they are written beside the base, which peft finds in the folder `base`. `is_export`: for other
    programs, so it need not be something that olla runs.
    """

    files: Files
    output: str
    format: str = "gguf"
    quantization: str = "bf16"
    adapters: list[Adapter] = []
    merge: bool = False
    chat_template: str = ""
    is_export: bool = False


class Export(msgspec.Struct, tag=True, frozen=True):
    """A model of the store at `store`, which the child looks up itself.

    "" for `quantization` keeps the precision of the files where that can be, else it is bfloat16.
    """

    store: str
    model: str
    output: str
    format: str
    merge: bool = False
    quantization: str = ""


class Report(msgspec.Struct, frozen=True):
    """How far it is; or with `error`, why it ended."""

    completed_bytes: int = 0
    total_bytes: int = 0
    error: str = ""


def convert(job: Conversion | Export, status: str) -> Generator[Progress, None, None]:
    """Run a conversion; blocking. Closing the iterator ends the process.

    Raises:
        BadInput: the model cannot be written so.
        RunnerError: the process died.
    """
    command = [sys.executable, "-m", "olla.runner.converter"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield from _progress(process, job, status)
        finally:
            process.kill()


def _progress(
    process: subprocess.Popen[bytes], job: Conversion | Export, status: str
) -> Iterator[Progress]:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(msgspec.json.encode(job))
    process.stdin.close()
    for line in process.stdout:
        report = msgspec.json.decode(line, type=Report)
        if report.error:
            raise BadInput(report.error)
        yield Progress(status, "", report.total_bytes, report.completed_bytes)
    if process.wait() != 0:
        raise RunnerError(f"the conversion ended with exit status {process.returncode}")
