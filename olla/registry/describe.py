"""The config blob of a new model, told from its weights. Reads headers, stores nothing."""

from __future__ import annotations

from olla.registry.manifest import ModelConfig
from olla.registry.weights import GGUF_NAME, Files, format_parameter_count, read_header


def describe_weights(files: Files) -> ModelConfig:
    """What the config says of a model with these files, named as `Model.files` names them.

    Raises:
        FormatError: a file is broken.
    """
    header = read_header(files)
    return ModelConfig(
        model_format="gguf" if GGUF_NAME in files else "safetensors",
        model_family=header.architecture,
        model_families=(header.architecture,),
        model_type=format_parameter_count(header.parameter_count),
        file_type=header.file_type,
    )
