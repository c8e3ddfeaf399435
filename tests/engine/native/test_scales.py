"""The core's search for scales of K types finds what torch's finds, in each variant."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch

from olla.engine.conversion.quants import quantize
from olla.engine.native.library import Core
from olla.formats.ggml_types import GgmlType


@pytest.mark.parametrize("kind", [GgmlType.Q4_K, GgmlType.Q5_K, GgmlType.Q6_K])
def test_the_core_quantizes_as_torch_does(core: Core, kind: GgmlType) -> None:
    """Sums in another order may let another of two candidates win that are equally good."""
    torch.manual_seed(0)
    rows = torch.randn(7, 1280) * torch.rand(7, 1)
    rows[0, :256], rows[1, :256], rows[2, :256] = 0.0, -1.5, rows[2, :256].abs()

    found, expected = quantize(rows, kind, core), quantize(rows, kind)

    assert (found != expected).mean() < 0.01
    number = gguf.GGMLQuantizationType(int(kind))
    found_error, expected_error = (
        np.square(gguf.quants.dequantize(made, number) - rows.numpy()).mean()
        for made in (found, expected)
    )
    assert found_error == pytest.approx(expected_error, rel=1e-3)


def test_few_groups_have_scales_too(core: Core) -> None:
    """Fewer than the lanes that compute side by side."""
    groups, scales = torch.randn(3, 16), torch.full((4,), 7.0)

    core.symmetric_scales(groups.data_ptr(), 3, 32, scales.data_ptr())

    largest = groups.abs().amax(dim=1)
    assert torch.allclose(scales[:3].abs(), largest / 32, rtol=0.04)
    assert scales[3] == 7.0
