"""Other architectures with quantized weights compute what their dequantized weights give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from olla.engine.loading import load_model
from olla.engine.models.hf import HfModel
from olla.engine.models.hf_quantized import QuantizedEmbedding, QuantizedLinear
from olla.engine.parts import LowRank, Part, Replaced, TokenRows
from tests.engine.test_families import forward
from tests.tiny_model import save_tiny_model

# A head of its own; one tied to the embedding, and transposed linears; a window.
ARCHITECTURES: list[tuple[str, dict[str, Any]]] = [
    ("gpt_neox", {"hidden_size": 64, "intermediate_size": 96}),
    ("gpt2", {"hidden_size": 64, "n_layer": 2, "n_head": 4, "n_positions": 512}),
    ("exaone4", {"hidden_size": 64, "intermediate_size": 96, "sliding_window": 16}),
]
TOLERANCE = 0.03  # what rounding inputs to 8 bits costs, as a part of the logits' norm


def load(files: dict[str, str], dtype: str, quantize: str) -> HfModel:
    network = load_model(files, dtype, "cpu", 2, lambda *_: None, quantize=quantize).network
    assert isinstance(network, HfModel)
    return network


@torch.no_grad()
def dequantized(files: dict[str, str], quantized: HfModel) -> HfModel:
    """The same model in floats, with the weights that the quantized one stands for."""
    exact = load(files, "float32", "none")
    for name, module in quantized._model.named_modules():
        if isinstance(module, QuantizedLinear | QuantizedEmbedding):
            own = exact._model.get_submodule(name)
            rows = module.matrix.rows(torch.arange(module.matrix.shape[0])).float()
            own.weight.copy_(rows.T if isinstance(own, Conv1D) else rows)
    return exact


@pytest.mark.parametrize("quantize", ["int8", "int4"])
@pytest.mark.parametrize(("architecture", "settings"), ARCHITECTURES)
def test_logits_are_those_of_the_dequantized_weights(
    tmp_path: Path, architecture: str, settings: dict[str, Any], quantize: str
) -> None:
    files = save_tiny_model(tmp_path, architecture, **settings)
    tokens = torch.randint(0, 256, (30,))

    quantized = load(files, "auto", quantize)

    exact = dequantized(files, quantized)
    assert not any(type(module) in {nn.Linear, Conv1D} for module in quantized._model.modules())
    assert quantized.num_bytes < exact.num_bytes / 1.9
    check_close(forward(quantized, tokens), forward(exact, tokens))


@pytest.mark.parametrize(
    ("architecture", "parts"),
    [
        ("gpt_neox", [
            LowRank("gpt_neox.layers.0.mlp.dense_4h_to_h", torch.randn(4, 96), torch.randn(64, 4)),
            LowRank("gpt_neox.layers.1.attention.dense", torch.randn(4, 64), torch.randn(64, 4),
                    magnitude=torch.rand(64)),
            Replaced("lm_head", "weight", torch.randn(259, 64)),
        ]),
        ("gpt2", [
            LowRank("transformer.h.0.attn.c_attn", torch.randn(4, 64), torch.randn(192, 4)),
            LowRank("transformer.wte", torch.randn(4, 259), torch.randn(64, 4)),
            TokenRows("transformer.wte", torch.tensor([1, 3]), torch.randn(2, 64)),
        ]),
    ],
)  # fmt: skip
def test_adapters_lie_over_quantized_modules(
    tmp_path: Path, architecture: str, parts: list[Part]
) -> None:
    settings = dict(ARCHITECTURES)[architecture]
    files = save_tiny_model(tmp_path, architecture, **settings)
    quantized = load(files, "auto", "int8")
    exact = dequantized(files, quantized)
    tokens = torch.tensor([1, 2, 3, 1, 5, 3])
    plain = forward(quantized, tokens)
    for network in (quantized, exact):
        network.add_adapter(1, parts)

    changed, expected = (forward(network, tokens, adapter=1) for network in (quantized, exact))

    check_close(changed, expected)
    assert (changed - plain).norm() > 0.1 * plain.norm()
    assert torch.equal(forward(quantized, tokens), plain)


def check_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert (found - expected).norm() <= TOLERANCE * expected.norm()
