"""What only a GPU can show: recordings, quantized matrices, a model over two devices."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from olla.engine.cuda_graphs import CudaRecorder, DecodeGraphs, DecodeInputs
from olla.engine.engine import Engine
from olla.engine.kv_cache import KVCache
from olla.engine.loading import load_model
from olla.engine.matrices_cuda import BnbMatrix
from olla.engine.models.batch import Batch, Span
from olla.engine.models.placed import batch_on
from olla.engine.placement import CPU, Plan
from tests.engine.test_cuda_graphs import texts
from tests.engine.test_families import forward
from tests.tiny_model import save_tiny_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def test_a_recording_gives_what_computing_gives() -> None:
    table = torch.randn(100, 8, device="cuda")

    def compute(inputs: DecodeInputs) -> torch.Tensor:
        return table[inputs.tokens] * inputs.lengths[:, None]

    graphs = DecodeGraphs(compute, CudaRecorder(), scratch_block=9, block_size=4)
    for rows in (1, 3, 3, 8):
        row = torch.randint(1, 30, (rows,), device="cuda")
        inputs = DecodeInputs(row, row, row, row[:, None], row)
        torch.testing.assert_close(graphs.run(inputs), compute(inputs))


@pytest.mark.parametrize("is_four_bit", [True, False])
def test_quantized_matrices_multiply_nearly_as_their_numbers(is_four_bit: bool) -> None:
    pytest.importorskip("bitsandbytes")
    weights = torch.randn(256, 128).bfloat16()
    inputs = torch.randn(5, 128, device="cuda").bfloat16()

    found = BnbMatrix(weights, torch.device("cuda"), is_four_bit=is_four_bit).multiply(inputs)

    expected = inputs.float() @ weights.cuda().float().T
    assert (found.float() - expected).norm() <= 0.15 * expected.norm()


@pytest.mark.parametrize(
    "plan", [Plan(("cuda:0", "cuda:0"), "cuda:0"), Plan(("cuda:0", CPU), "cuda:0")], ids=str
)
def test_a_model_on_the_gpu_gives_what_it_gives_on_the_cpu(tmp_path: Path, plan: Plan) -> None:
    files = save_tiny_model(tmp_path)
    tokens = torch.randint(0, 256, (20,))
    on_cpu = load_model(files, "float32", "cpu", 0, lambda done, total: None)

    on_gpu = load_model(files, "float32", "cuda:0", 0, lambda done, total: None, plan=plan)
    Engine(on_gpu).warm_up()

    where = torch.arange(len(tokens))
    batch = Batch(tokens, where, where, [Span(0, 20, slice(0, 20))], where, KVCache(20))
    found = on_gpu.network.forward(batch_on(batch, torch.device("cuda:0"))).cpu()
    torch.testing.assert_close(found, forward(on_cpu.network, tokens), rtol=1e-3, atol=1e-3)


def test_replies_from_recordings_are_those_computed_as_they_come(tmp_path: Path) -> None:
    files = save_tiny_model(tmp_path)
    model = load_model(files, "float32", "cuda:0", 0, lambda done, total: None)
    assert model.record is not None

    assert texts(model, 5) == texts(replace(model, record=None), 5)
