"""Matrices through bitsandbytes: what is asked of it, with a stand-in for the package."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from olla.engine.matrices_cuda import BnbMatrix
from olla.errors import BadInput

CPU = torch.device("cpu")
WEIGHTS = torch.randn(6, 4)


class FakeLinear(nn.Linear):
    def __init__(self, columns: int, rows: int, *, bias: bool, device: str, **settings: Any):
        super().__init__(columns, rows, bias=bias, device=device)
        self.settings = settings


def parameter(weights: torch.Tensor, *, requires_grad: bool, **_: Any) -> nn.Parameter:
    return nn.Parameter(weights, requires_grad=requires_grad)


@pytest.fixture
def bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("bitsandbytes")
    layers = SimpleNamespace(
        Linear4bit=FakeLinear, Linear8bitLt=FakeLinear, Params4bit=parameter, Int8Params=parameter
    )
    monkeypatch.setattr(module, "nn", layers, raising=False)
    monkeypatch.setitem(sys.modules, "bitsandbytes", module)


@pytest.mark.usefixtures("bitsandbytes")
@pytest.mark.parametrize("is_four_bit", [True, False])
def test_a_matrix_multiplies_by_the_layer_that_it_wraps(is_four_bit: bool) -> None:
    matrix = BnbMatrix(WEIGHTS, CPU, is_four_bit=is_four_bit)
    inputs = torch.randn(2, 4)

    assert matrix.shape == (6, 4)
    assert matrix.num_bytes == WEIGHTS.nbytes
    torch.testing.assert_close(matrix.multiply(inputs), inputs @ WEIGHTS.T)


def test_the_missing_package_is_named_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)

    with pytest.raises(BadInput, match=r"pip install 'olla\[cuda\]'"):
        BnbMatrix(WEIGHTS, CPU, is_four_bit=True)
