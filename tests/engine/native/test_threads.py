"""A step takes no memory that the one before it had not, and threads sleep when there is none."""

from __future__ import annotations

import ctypes
import subprocess
import time
from pathlib import Path

import pytest
import torch

import hatch_build
from olla.engine.kv_cache import KVCache
from olla.engine.linear import AdapterRows
from olla.engine.models.batch import Batch, CausalModel, Span
from olla.engine.native.library import FOLDER, Core, Kind
from olla.engine.parts import LowRank
from tests.engine.native.conftest import LIBRARIES
from tests.engine.native.test_decoder import load_pair
from tests.engine.test_families import EXPERTS, forward

IDLE_S, BUSY_SHARE = 0.5, 0.1


@pytest.fixture(scope="module")
def counting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The portable core, which counts its allocations."""
    compiler = hatch_build.find_compiler()
    if compiler is None:
        pytest.skip("no C++ compiler")
    path = tmp_path_factory.mktemp("core") / "core_counting.so"
    flags = [flag for flag in hatch_build.FLAGS if not flag.startswith("-O")]
    sources = ["-include", str(Path(__file__).with_name("counting.cpp")), str(FOLDER / "core.cpp")]
    # So that it calls its own allocator, and not the one of whoever loaded one before.
    own = ["-O1", "-Wl,-Bsymbolic", "-o", str(path)]
    subprocess.run([compiler, *flags, *sources, *own], check=True)
    return path


def step(model: CausalModel, cache: KVCache, counts: list[int]) -> None:
    """Sequences of so many tokens each, every second token under an adapter."""
    ends = torch.tensor(counts).cumsum(0).tolist()
    total = ends[-1]
    slots = torch.arange(total)
    spans = [
        Span(end - count, end, slice(end - count, end))
        for count, end in zip(counts, ends, strict=True)
    ]
    positions = torch.cat([torch.arange(count) for count in counts])
    adapters = [AdapterRows(1, torch.arange(0, total, 2))]
    model.forward(Batch(slots, positions, slots, spans, torch.tensor(ends) - 1, cache, adapters))


@pytest.mark.parametrize("kind", [Kind.F16, Kind.Q8])
def test_a_step_allocates_nothing_once_each_thread_had_a_larger_one(
    tmp_path: Path, counting: Path, kind: Kind
) -> None:
    library = ctypes.CDLL(str(counting))
    settings = {**EXPERTS, "shared_expert_intermediate_size": 40}
    native, _ = load_pair(tmp_path, Core(counting, 2), "qwen2_moe", kind, **settings)
    names = ("self_attn.q_proj", "mlp.shared_expert.gate_proj", "mlp.experts.1.up_proj")
    sizes = (32, 40, 24)
    native.add_adapter(
        1,
        [
            LowRank(f"model.layers.0.{name}", torch.randn(4, 32), torch.randn(size, 4))
            for name, size in zip(names, sizes, strict=True)
        ],
    )
    cache = KVCache(80)
    step(native, cache, [40, 1, 39])

    # A thread that comes late misses work, and makes its room when it first has some of a kind.
    num_without = 0
    for _ in range(500):
        before = library.olla_num_allocations()
        for counts in ([1, 1, 1], [40, 1, 39], [1, 30, 2], [3]):
            step(native, cache, counts)
        num_without = num_without + 1 if library.olla_num_allocations() == before else 0
        if num_without == 10:
            break

    assert before > 0
    assert num_without == 10


@pytest.mark.skipif(not LIBRARIES, reason="no C++ compiler was there when olla was installed")
def test_workers_that_come_late_or_never_change_no_logits(tmp_path: Path) -> None:
    """Of 16 threads most have no CPU when a step begins, nor when it ends."""
    alone, _ = load_pair(tmp_path, Core(Path(LIBRARIES[0]), num_threads=1))
    shared, _ = load_pair(tmp_path, Core(Path(LIBRARIES[0]), num_threads=16))
    tokens = torch.randint(0, 256, (60,))
    expected = forward(alone, tokens)

    assert all(torch.equal(forward(shared, tokens), expected) for _ in range(200))


def test_threads_of_the_core_sleep_when_there_is_nothing_to_compute(
    tmp_path: Path, core: Core
) -> None:
    native, _ = load_pair(tmp_path, core)
    step(native, KVCache(80), [40, 1, 39])
    time.sleep(0.1)  # they wait busily for a moment, in case more comes
    before = time.process_time()

    time.sleep(IDLE_S)

    assert time.process_time() - before < BUSY_SHARE * IDLE_S
