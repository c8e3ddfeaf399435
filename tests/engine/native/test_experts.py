"""Mixtures of experts in the compiled core: packed from files, and under adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from torch import Tensor

from olla.engine.loading import load_model
from olla.engine.models.decoder import Decoder
from olla.engine.native.decoder import NativeDecoder
from olla.engine.native.library import Core, find_library
from olla.engine.parts import LowRank, Part
from tests.engine.native.test_decoder import TOLERANCE, load_pair
from tests.engine.test_families import EXPERTS, forward
from tests.engine.test_gguf_weights import tiny
from tests.gguf_model import write_gguf
from tests.tiny_model import VOCAB_SIZE, save_tiny_model

SIZES: dict[str, Any] = {
    **EXPERTS,
    "hidden_size": 64,
    "moe_intermediate_size": 32,
    "num_local_experts": 5,
}
SHARED: dict[str, Any] = {"shared_expert_intermediate_size": 96}
LAYER = "model.layers.1.mlp"


def load(files: dict[str, str], dtype: str, quantize: str = "auto") -> Any:
    return load_model(files, dtype, "cpu", 2, lambda *_: None, quantize=quantize).network


@pytest.mark.skipif(find_library() is None, reason="the core was not built")
@pytest.mark.parametrize("kind", ["Q4_0", "Q8_0"])
@pytest.mark.parametrize(
    ("architecture", "model_type"), [("qwen2moe", "qwen2_moe"), ("llama", "mixtral")]
)
def test_the_core_computes_a_file_as_its_dequantized_weights(
    tmp_path: Path, kind: str, architecture: str, model_type: str
) -> None:
    model = tiny(model_type, **SIZES, **SHARED, intermediate_size=96)
    path = tmp_path / "m.gguf"
    write_gguf(path, model, architecture, gguf.GGMLQuantizationType[kind])
    tokens = torch.randint(0, VOCAB_SIZE - 3, (20,))

    native, exact = (load({"model.gguf": str(path)}, dtype) for dtype in ("auto", "float32"))

    assert isinstance(native, NativeDecoder)
    assert isinstance(exact, Decoder)
    check_close(forward(native, tokens), forward(exact, tokens), 0.1)


@pytest.mark.skipif(find_library() is None, reason="the core was not built")
def test_experts_of_floats_are_quantized_when_they_are_loaded(tmp_path: Path) -> None:
    files = save_tiny_model(tmp_path, "qwen2_moe", **SIZES, **SHARED)
    tokens = torch.randint(0, VOCAB_SIZE - 3, (20,))

    eight, exact = load(files, "auto", "int8"), load(files, "float32")

    assert eight.num_bytes < exact.num_bytes / 3
    check_close(forward(eight, tokens), forward(exact, tokens), 0.1)


def test_adapters_change_experts_of_their_own_rows(tmp_path: Path, core: Core) -> None:
    native, decoder = load_pair(tmp_path, core, "qwen2_moe", **SIZES, **SHARED)
    tokens = torch.randint(0, VOCAB_SIZE - 3, (12,))
    plain = forward(native, tokens)
    shapes = {"gate": (5, 64), "shared_expert_gate": (1, 64), "shared_expert.up_proj": (96, 64)}
    shapes |= {f"experts.{n}.down_proj": (64, 32) for n in range(3)}
    shapes |= {"experts.4.gate_proj": (32, 64)}
    parts: list[Part] = [
        LowRank(f"{LAYER}.{name}", torch.randn(4, columns) / 4, torch.randn(rows, 4) / 4)
        for name, (rows, columns) in shapes.items()
    ]
    for model in (native, decoder):
        model.add_adapter(7, parts)

    changed, expected = (forward(model, tokens, adapter=7) for model in (native, decoder))

    assert (changed - expected).abs().max() <= TOLERANCE * expected.abs().max()
    assert (changed - plain).abs().max() > 0.01 * plain.abs().max()
    assert torch.equal(forward(native, tokens), plain)


def check_close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    assert (found - expected).norm() <= tolerance * expected.norm()
