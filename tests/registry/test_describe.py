"""describe_weights: the config that a new model gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from olla.errors import FormatError
from olla.registry.describe import describe_weights
from olla.registry.manifest import ModelConfig
from tests.formats.gguf_writer import tiny_model
from tests.registry.models import safetensors_bytes


def test_a_gguf_file_is_described(tmp_path: Path) -> None:
    path = tiny_model().write(tmp_path / "x")

    assert describe_weights({"model.gguf": path}) == ModelConfig(
        model_format="gguf",
        model_family="llama",
        model_families=("llama",),
        model_type="32",
        file_type="Q4_1",
    )


def test_a_repository_is_described(tmp_path: Path) -> None:
    config, weights = tmp_path / "config.json", tmp_path / "model.safetensors"
    config.write_text('{"model_type":"qwen3"}')
    weights.write_bytes(safetensors_bytes(a=("BF16", [40, 50], 4000)))

    assert describe_weights({path.name: path for path in (config, weights)}) == ModelConfig(
        model_format="safetensors",
        model_family="qwen3",
        model_families=("qwen3",),
        model_type="2K",
        file_type="BF16",
    )


def test_broken_weights_are_a_format_error(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"no weights")

    with pytest.raises(FormatError, match="not a GGUF file"):
        describe_weights({"model.gguf": tmp_path / "x"})
