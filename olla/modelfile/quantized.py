"""Weights -> the same weights quantized, as one GGUF file that is a new blob.

Who does the arithmetic is handed in. Knows which weights can be quantized, and that what the
source is made of stays as it is.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

from olla.errors import BadInput
from olla.modelfile.weights import Weights
from olla.registry.describe import describe_weights
from olla.registry.digest import Digest
from olla.registry.disk import TEMPORARY_PREFIX, Hold
from olla.registry.layout import is_weights_type
from olla.registry.manifest import Layer, MediaType
from olla.registry.store import ModelStore
from olla.registry.weights import GGUF_NAME, read_header
from olla.requests import Progress

Quantize = Callable[[Mapping[str, Path], str, Path, str], Generator[Progress, None, None]]
"""Writes a model's files, in a type that GGUF has, to a path; with a chat template for the file."""

_FLOATS = frozenset({"F32", "F16", "BF16"})
_CHUNK_BYTES = 1 << 20


def quantized(
    weights: Weights, kind: str, quantize: Quantize, store: ModelStore, hold: Hold
) -> Generator[Progress, None, Weights]:
    """The weights in another type; whatever else the model has is kept.

    Raises:
        BadInput: they are quantized already, or cannot be written so.
    """
    header = read_header(weights.files)
    if header.file_type not in _FLOATS:
        raise BadInput("quantization is only supported for F16, BF16 and F32 models")
    with _temporary_file(store.blobs.directory) as path:
        steps = quantize(weights.files, kind, path, header.chat_template)
        with closing(steps):
            for step in steps:
                status = f"quantizing {header.file_type} model to {kind.upper()}"
                yield replace(step, status=status, digest=_NO_DIGEST)
        yield Progress("verifying conversion")
        layer = _stored(path, store, hold)
    files = {GGUF_NAME: store.blobs.path(layer.digest)}
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
    return Weights(config, (layer, *rest), files)


_NO_DIGEST = "0000000000000000000"  # what Ollama says of a layer that has none yet


@contextmanager
def _temporary_file(directory: Path) -> Iterator[Path]:
    directory.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=TEMPORARY_PREFIX, dir=directory)
    os.close(descriptor)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def _stored(path: Path, store: ModelStore, hold: Hold) -> Layer:
    with path.open("rb") as file, store.blobs.writer() as writer:
        while chunk := file.read(_CHUNK_BYTES):
            writer.write(chunk)
        hold.add(writer.digest)
        digest: Digest = writer.commit()
    return Layer(MediaType.MODEL, digest, store.blobs.size_bytes(digest))
