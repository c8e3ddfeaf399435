"""`olla export`: a stored model as an archive, or as files that other programs load.

An archive comes from the daemon. Other formats are made of the store of this machine, in a process
of its own that may import torch. What is half written has another name, so a broken export leaves
nothing behind.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from olla.cli.archive import write_archive
from olla.cli.cobra import CLIENT_ENVIRONMENT, command, exactly
from olla.cli.daemon import connect
from olla.cli.model_names import complete_models
from olla.cli.terminal import progress_bars
from olla.errors import BadInput
from olla.quantization import check_quantization
from olla.runner.conversion import Export, convert
from olla.settings import Settings

ARCHIVE = "archive"
FORMATS = ("hf", "gguf")


@command("export", exactly(2), (*CLIENT_ENVIRONMENT, "OLLA_MODELS"))
@click.argument("model", metavar="MODEL", required=False, shell_complete=complete_models)
@click.argument("path", metavar="PATH", required=False)
@click.option(
    "--format", "kind", metavar="FORMAT", default=ARCHIVE, help="archive (default), hf or gguf."
)
@click.option("--merge", is_flag=True, help="Lay the model's adapters over its weights for good.")
@click.option("-q", "--quantize", metavar="TYPE", default="", help="For gguf, such as q4_k_m.")
@click.pass_obj
def export(
    settings: Settings, model: str, path: str, kind: str, merge: bool, quantize: str
) -> None:
    """Write a model to files.

    An archive is one file, for machines without a line to others: olla import reads it there.
    hf is a folder that transformers and peft load; gguf is a file that llama.cpp and Ollama load.
    """
    if quantize:
        check_quantization(quantize)
    target = Path(path)
    if kind == ARCHIVE:
        if merge or quantize:
            raise BadInput("--merge and --quantize are for --format hf and gguf")
        write_archive(connect(settings), model, target)
        return
    if kind not in FORMATS:
        raise BadInput(f"unknown format {kind!r}: it is one of {', '.join((ARCHIVE, *FORMATS))}")
    if target.exists():
        raise BadInput(f"{path} exists already: name a place that does not")
    part = target.with_name(f".{target.name}.part")
    job = Export(str(settings.models), model, str(part), kind, merge, quantize)
    try:
        with progress_bars() as show:
            for progress in convert(job, "writing model"):
                show(progress)
        part.rename(target)
    finally:
        _remove(part)


def _remove(part: Path) -> None:
    if part.is_dir():
        shutil.rmtree(part)
    else:
        part.unlink(missing_ok=True)
