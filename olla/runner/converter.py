"""The child of a conversion: a job on stdin, reports on stdout, a file or a folder as asked."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from io import FileIO
from pathlib import Path

import msgspec

from olla.engine.conversion import gguf_families, gguf_model
from olla.engine.conversion.gguf_file import Content, write_content
from olla.engine.conversion.hf_model import (
    adapter_configs,
    copy_files,
    packing_of,
    write_adapters,
    write_gguf_as_repository,
    write_repository,
)
from olla.engine.conversion.module_model import ModuleModel
from olla.engine.conversion.recipes import recipe_for
from olla.engine.conversion.source import FloatModel, has_names
from olla.engine.loading import open_checkpoint
from olla.errors import BadInput, OllaError
from olla.names import ModelName
from olla.registry.store import ModelStore
from olla.registry.weights import GGUF_NAME
from olla.runner.conversion import Conversion, Export, Report
from olla.runner.protocol import Adapter

_REPORT_EVERY_S = 0.2
_KEPT = ""

OnProgress = Callable[[int, int], None]


def main() -> int:
    # Libraries print to stdout as they please, so reports take a private copy of it.
    reports = FileIO(os.dup(1), "wb")
    os.dup2(2, 1)
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Conversion | Export)
    try:
        run(resolved(job) if isinstance(job, Export) else job, reporter(reports))
    except (OllaError, OSError) as error:
        send(reports, Report(error=str(error)))
        return 1
    return 0


def resolved(job: Export) -> Conversion:
    """The files of the model that a job names.

    Raises:
        OllaError: there is no such model, or it is broken.
    """
    model = ModelStore(Path(job.store), prune=False).resolve(ModelName.parse(job.model))
    model.check_files()
    return Conversion(
        files={name: str(path) for name, path in model.files.items()},
        output=job.output,
        format=job.format,
        quantization=job.quantization,
        adapters=[
            Adapter({name: str(path) for name, path in files.items()}, scale)
            for files, scale in model.scaled_adapters
        ],
        merge=job.merge,
        chat_template=model.chat_template,
        is_export=True,
    )


def run(job: Conversion, on_progress: OnProgress) -> None:
    """
    Raises:
        OllaError: the model cannot be written so.
        OSError: the disk refuses.
    """
    output = Path(job.output)
    if job.format == "hf":
        _write_hf(job, output, on_progress)
    elif job.adapters and not job.merge:
        raise BadInput("a GGUF file holds no adapters beside its weights: add --merge")
    elif GGUF_NAME in job.files and not job.adapters and job.quantization == _KEPT:
        shutil.copyfile(job.files[GGUF_NAME], output)
    else:
        recipe = recipe_for(job.quantization or "bf16")
        write_content(_content(job), recipe, output, on_progress)


def _content(job: Conversion) -> Content:
    """What a GGUF file of the model holds, its adapters merged."""
    if has_names(job.files):
        return gguf_model.gguf_content(FloatModel(job.files, job.adapters), job.chat_template)
    if not job.is_export:
        raise BadInput(
            "olla create quantizes the families of its own decoder only, and no mixtures of "
            "experts; for other programs, write one with olla export --format gguf -q"
        )
    return gguf_families.gguf_content(ModuleModel(job.files, job.adapters), job.chat_template)


def _write_hf(job: Conversion, output: Path, on_progress: OnProgress) -> None:
    """The model; or its base in a folder of the adapter's, which names it.

    Whatever is refused is refused before there is a folder.
    """
    packing = packing_of(job.quantization)
    is_apart = bool(job.adapters) and not job.merge
    folder = output / "base" if is_apart else output
    configs = adapter_configs(job.adapters, folder.name) if is_apart else []
    if is_apart and "base_vocab_size" in open_checkpoint(job.files).config:
        raise BadInput("an adapter with new tokens is exported merged: add --merge")
    adapters = job.adapters if job.merge else []
    if GGUF_NAME in job.files:
        model = FloatModel(job.files, adapters)
        write_gguf_as_repository(model, folder, job.chat_template, on_progress, packing)
    elif adapters or packing:
        kind = FloatModel if packing or has_names(job.files) else ModuleModel
        write_repository(kind(job.files, adapters), folder, job.files, on_progress, packing)
    else:
        copy_files(job.files, folder, on_progress)
    if is_apart:
        write_adapters(job.adapters, configs, output)


def reporter(stream: FileIO) -> OnProgress:
    last = 0.0

    def report(completed_bytes: int, total_bytes: int) -> None:
        nonlocal last
        if completed_bytes == total_bytes or time.monotonic() - last > _REPORT_EVERY_S:
            last = time.monotonic()
            send(stream, Report(completed_bytes, total_bytes))

    return report


def send(stream: FileIO, report: Report) -> None:
    stream.write(msgspec.json.encode(report) + b"\n")


if __name__ == "__main__":
    sys.exit(main())
