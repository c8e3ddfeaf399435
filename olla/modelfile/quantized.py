"""Weights -> the same weights quantized, as new blobs: one GGUF file, or a repository's files.

Who does the arithmetic is handed in. Knows which weights can be quantized, and that what the
source is made of stays as it is.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

from olla.errors import BadInput
from olla.modelfile.weights import Weights
from olla.quantization import is_packed_type
from olla.registry.describe import describe_weights
from olla.registry.digest import Digest
from olla.registry.disk import TEMPORARY_PREFIX, Hold
from olla.registry.layout import is_weights_type
from olla.registry.manifest import Layer, MediaType
from olla.registry.store import ModelStore
from olla.registry.weights import GGUF_NAME, read_header
from olla.requests import Progress

Quantize = Callable[[Mapping[str, Path], str, Path, str], Generator[Progress, None, None]]
"""Writes a model's files in another type to a path: one file in a type that GGUF has, a folder in
one of bitsandbytes'. The text is a chat template, for files that have a place for it.
"""

_FLOATS = frozenset({"F32", "F16", "BF16"})
_CHUNK_BYTES = 1 << 20
_OUTPUT = "model"


def quantized(
    weights: Weights, kind: str, quantize: Quantize, store: ModelStore, hold: Hold
) -> Generator[Progress, None, Weights]:
    """The weights in another type; whatever else the model has is kept.

    Raises:
        BadInput: they are quantized already, or cannot be written so.
    """
    header = read_header(weights.files)
    if header.file_type not in _FLOATS:
        place, form = ("out", "hf") if is_packed_type(kind) else ("out.gguf", "gguf")
        raise BadInput(
            "quantization is only supported for F16, BF16 and F32 models: this one is "
            f"{header.file_type or 'quantized'} already; olla export MODEL {place} --format {form} "
            f"-q {kind} writes it anew, and olla create NAME --from {place} makes a model of that"
        )
    with _temporary_folder(store.blobs.directory) as folder:
        path = folder / _OUTPUT
        steps = quantize(weights.files, kind, path, header.chat_template)
        with closing(steps):
            for step in steps:
                status = f"quantizing {header.file_type} model to {kind.upper()}"
                yield replace(step, status=status, digest=_NO_DIGEST)
        yield Progress("verifying conversion")
        layers = tuple(_stored_all(path, store, hold))
    files = {layer.name or GGUF_NAME: store.blobs.path(layer.digest) for layer in layers}
    found = describe_weights(files)
    config = replace(
        weights.config,
        model_format=found.model_format,
        model_family=found.model_family,
        model_families=found.model_families,
        model_type=found.model_type,
        file_type=found.file_type,
    )
    rest = (old for old in weights.layers if not is_weights_type(old.media_type))
    return Weights(config, (*layers, *rest), files)


_NO_DIGEST = "0000000000000000000"  # what Ollama says of a layer that has none yet


@contextmanager
def _temporary_folder(directory: Path) -> Iterator[Path]:
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=directory) as folder:
        yield Path(folder)


def _stored_all(path: Path, store: ModelStore, hold: Hold) -> Iterator[Layer]:
    if not path.is_dir():
        yield _stored(path, MediaType.MODEL, "", store, hold)
        return
    for file in sorted(path.iterdir()):
        yield _stored(file, MediaType.FILE, file.name, store, hold)


def _stored(path: Path, media_type: str, name: str, store: ModelStore, hold: Hold) -> Layer:
    with path.open("rb") as file, store.blobs.writer() as writer:
        while chunk := file.read(_CHUNK_BYTES):
            writer.write(chunk)
        hold.add(writer.digest)
        digest: Digest = writer.commit()
    return Layer(media_type, digest, store.blobs.size_bytes(digest), name)
