"""Sizes before a load, and what is tried when they were not enough."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from olla.engine.fitting import choose_plan, first_that_fits, needed
from olla.engine.loading import Precision, load_model, open_checkpoint
from olla.engine.placement import CPU, Gpu, Plan
from olla.engine.weights.checkpoint import Storage
from olla.errors import OutOfMemory
from olla.runner.protocol import Load
from tests.tiny_model import save_tiny_model

FLOATS = Precision(torch.float32, keeps_quantized=False, wanted=None)
ON_GPU = Plan(("cuda:0",) * 4, "cuda:0")


@pytest.mark.parametrize("tied", [True, False])
def test_the_sizes_are_those_of_what_is_loaded(tmp_path: Path, tied: bool) -> None:
    files = save_tiny_model(tmp_path, "llama", tie_word_embeddings=tied)
    model = load_model(files, "float32", "cpu", 0, lambda done, total: None)
    request = Load(files, num_ctx=100)

    need = needed(open_checkpoint(files), FLOATS, request)

    cache_bytes = 100 * model.network.cache_bytes_per_token
    in_all = sum(need.layer_bytes) + need.other_bytes
    assert len(need.layer_bytes) == 2
    # Norms are not counted by the model.
    assert model.num_bytes + cache_bytes <= in_all <= 1.02 * (model.num_bytes + cache_bytes)


def test_a_window_above_the_trained_length_costs_no_more(tmp_path: Path) -> None:
    files = save_tiny_model(tmp_path)
    checkpoint = open_checkpoint(files)

    most, more = (needed(checkpoint, FLOATS, Load(files, num_ctx=n)) for n in (512, 10**6))

    assert most == more


def test_fewer_bits_need_less(tmp_path: Path) -> None:
    files = save_tiny_model(tmp_path)
    wanted = (None, Storage.EIGHT_BIT, Storage.FOUR_BIT)
    precisions = [Precision(torch.bfloat16, keeps_quantized=True, wanted=bits) for bits in wanted]

    sizes = [needed(open_checkpoint(files), p, Load(files)).total_bytes for p in precisions]

    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 3


@pytest.mark.parametrize("kv_cache_bytes", [0, 2**20])
def test_a_model_that_drafts_needs_as_much_as_it_would_alone(
    tmp_path: Path, kv_cache_bytes: int
) -> None:
    files, draft = save_tiny_model(tmp_path / "base"), save_tiny_model(tmp_path / "draft")
    checkpoint = open_checkpoint(files)

    def total(**others: Any) -> int:
        request = Load(files, num_ctx=100, kv_cache_bytes=kv_cache_bytes, **others)
        need = needed(checkpoint, FLOATS, request)
        return sum(need.layer_bytes) + need.other_bytes

    with_draft = total(draft_files=draft)

    # The cache that the setting sizes is shared.
    assert with_draft == 2 * total() - kv_cache_bytes
    assert total(draft_files=draft, speculate="off") == total()


def test_other_architectures_go_as_a_whole(tmp_path: Path) -> None:
    files = save_tiny_model(tmp_path, "gpt_neox")

    assert len(needed(open_checkpoint(files), FLOATS, Load(files)).layer_bytes) == 1


def test_on_the_cpu_there_is_nothing_to_choose() -> None:
    assert choose_plan(Load({}, device="cpu"), (Gpu("cuda:0", 10**12),)) is None


def test_what_fits_at_once_is_taken() -> None:
    assert first_that_fits(ON_GPU, str) == (str(ON_GPU), ON_GPU, "")


def test_memory_that_runs_out_costs_layers_on_the_gpu_and_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    tried: list[int] = []

    def load(plan: Plan | None) -> str:
        assert plan is not None
        tried.append(plan.num_gpu_layers)
        if plan.num_gpu_layers > 1:
            raise OutOfMemory("no room")
        return "loaded"

    loaded, plan, note = first_that_fits(ON_GPU, load)

    assert tried == [4, 2, 1]
    assert (loaded, plan) == ("loaded", Plan(("cuda:0", CPU, CPU, CPU), "cuda:0"))
    assert note == "did not fit on the GPU; loaded with 1 of 4 layers on the GPU"
    assert caplog.text.count("out of memory, trying again") == 2


@pytest.mark.parametrize("first", [None, ON_GPU])
def test_what_fits_nowhere_is_an_error(first: Plan | None) -> None:
    def load(plan: Plan | None) -> str:
        raise OutOfMemory("no room")

    with pytest.raises(OutOfMemory):
        first_that_fits(first, load)
