"""The estimate of a model's memory: weights as they will be kept, and one window."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from olla.inference.estimate import needed_bytes
from olla.registry.model import Model
from tests.inference.conftest import SETTINGS, FakeHeader, FakeModel

HEADER = {
    "llama.block_count": 2,
    "llama.embedding_length": 64,
    "llama.attention.head_count": 8,
    "llama.attention.head_count_kv": 4,
}
WINDOW = 2 * 2 * 4 * 8 * 100 * 2  # keys and values, layers, heads, width, tokens, bytes


def model(**numbers: int) -> Model:
    return cast(Model, FakeModel(header=FakeHeader({**HEADER, **numbers})))


@pytest.mark.parametrize(
    ("quantize", "dtype", "weights"),
    [
        ("", "auto", 500),
        ("none", "auto", 2000),
        ("none", "float32", 4000),
        ("", "float16", 2000),
        ("int8", "float32", 1062),
        ("nf4", "auto", 562),
    ],
)
def test_weights_are_as_large_as_they_will_be_kept(quantize: str, dtype: str, weights: int) -> None:
    settings = replace(SETTINGS, dtype=dtype)

    assert needed_bytes(model(), quantize, 100, settings) == weights + WINDOW


def test_a_width_in_the_header_counts() -> None:
    wide = model(**{"llama.attention.key_length": 16})

    assert needed_bytes(wide, "", 100, SETTINGS) == 500 + 2 * WINDOW


def test_a_cache_in_8_bits_needs_less() -> None:
    settings = replace(SETTINGS, kv_cache_type="q8_0")

    assert needed_bytes(model(), "", 100, settings) == 500 + WINDOW * 8.5 / 16


@pytest.mark.parametrize("change", [{"dtype": "float16"}, {"quantize": "none"}, {"device": "cuda"}])
def test_what_the_core_cannot_compute_has_no_cache_in_8_bits(change: dict[str, Any]) -> None:
    settings = replace(SETTINGS, kv_cache_type="q8_0", **change)

    with_window, without = (needed_bytes(model(), "", tokens, settings) for tokens in (100, 0))

    assert with_window == without + WINDOW


def test_a_cache_that_the_settings_fix_is_what_is_needed() -> None:
    assert needed_bytes(model(), "", 100, replace(SETTINGS, kv_cache_bytes=7)) == 507


def test_a_model_that_drafts_has_a_cache_of_its_own(tmp_path: Path) -> None:
    draft = tmp_path / "draft"
    draft.write_bytes(bytes(30))
    half = FakeHeader({**HEADER, "llama.block_count": 1})
    both = cast(Model, FakeModel(header=FakeHeader(HEADER), draft=draft, draft_header=half))

    assert needed_bytes(both, "none", 100, SETTINGS) == 2000 + 30 + WINDOW + WINDOW // 2
    assert needed_bytes(both, "none", 100, replace(SETTINGS, kv_cache_bytes=7)) == 2000 + 30 + 7
    assert needed_bytes(both, "none", 100, replace(SETTINGS, speculate="off")) == 2000 + WINDOW


def test_a_model_that_tells_nothing_needs_its_weights() -> None:
    assert needed_bytes(cast(Model, FakeModel()), "", 100, SETTINGS) == 500
