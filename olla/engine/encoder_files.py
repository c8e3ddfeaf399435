"""Which files hold an encoder, a model that writes no text. Imports none of what computes it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from olla.engine.weights.safetensors import read_json
from olla.formats.architectures import GGUF_ENCODERS, is_generator
from olla.formats.gguf import read_gguf


def is_encoder(files: Mapping[str, str]) -> bool:
    """Whether these files are a model that writes no text.

    Raises:
        FormatError: a file is broken.
    """
    paths = {name: Path(path) for name, path in files.items()}
    if any(name.endswith(".gguf") for name in paths):
        return is_gguf_encoder(paths)
    return not is_generator(read_json(paths, "config.json"))


def is_gguf_encoder(files: Mapping[str, Path]) -> bool:
    """
    Raises:
        FormatError: the file is broken.
    """
    ggufs = [path for name, path in files.items() if name.endswith(".gguf")]
    if not ggufs:
        return False
    return str(read_gguf(ggufs[0]).metadata.get("general.architecture")) in GGUF_ENCODERS
