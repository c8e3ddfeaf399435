"""Files that are quantized stay so in memory, on CPUs that are fast at it, at little loss."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest
import torch

from olla.engine.loading import (
    LoadedModel,
    Precision,
    choose_dtype,
    choose_precision,
    computes_floats,
    computes_quantized,
    load_model,
    load_network,
    open_checkpoint,
)
from olla.engine.matrices import Dense, Int4, Int8, Stacked
from olla.engine.models.decoder import Decoder
from olla.engine.native.decoder import NativeDecoder
from olla.engine.native.library import find_library
from olla.engine.weights.checkpoint import CheckpointParameters, Storage
from olla.engine.weights.gguf import GgufCheckpoint
from olla.errors import BadInput
from tests.engine.test_families import forward
from tests.engine.test_gguf_weights import tiny
from tests.gguf_model import write_gguf
from tests.tiny_model import VOCAB_SIZE, save_tiny_model

LICENSE = Path(__file__).parents[2] / "LICENSE"
NUM_TOKENS = 600
CPU = torch.device("cpu")
AUTO = (choose_dtype("auto", CPU), CPU)


def parameters(
    path: Path, *, keep_quantized: bool = True, wanted: Storage | None = None
) -> CheckpointParameters:
    return CheckpointParameters(
        GgufCheckpoint(path),
        torch.bfloat16,
        CPU,
        lambda num_bytes: None,
        keep_quantized,
        wanted,
    )


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("Q4_0", Int4), ("Q4_1", Int4), ("Q8_0", Int8), ("Q5_1", Int8), ("F16", Dense)],
)
def test_the_file_decides_how_a_matrix_is_kept(tmp_path: Path, kind: str, expected: type) -> None:
    model = tiny("llama", hidden_size=64, intermediate_size=64)
    path = write_gguf(tmp_path / "m.gguf", model, "llama", gguf.GGMLQuantizationType[kind])
    name = {"model.layers.0.mlp.up_proj.weight": 64}

    assert isinstance(parameters(path, keep_quantized=True).matrix(name, 64), expected)
    assert isinstance(parameters(path, keep_quantized=False).matrix(name, 64), Dense)


def test_rows_that_the_four_bit_kernel_does_not_take_are_kept_in_eight(tmp_path: Path) -> None:
    model = tiny("llama", hidden_size=64, intermediate_size=72)
    path = write_gguf(tmp_path / "m.gguf", model, "llama", gguf.GGMLQuantizationType.Q4_0)

    matrix = parameters(path, keep_quantized=True).matrix(
        {"model.layers.0.mlp.up_proj.weight": 72}, 64
    )

    assert isinstance(matrix, Int8)


def test_parts_of_different_kinds_are_kept_side_by_side(tmp_path: Path) -> None:
    """As in Q4_K_M files, which spend more bits on some projections."""
    model = tiny("llama", hidden_size=64, intermediate_size=64)
    gate, up = (f"model.layers.0.mlp.{name}_proj.weight" for name in ("gate", "up"))
    kinds = gguf.GGMLQuantizationType
    path = write_gguf(tmp_path / "m.gguf", model, "llama", kinds.Q4_0, exceptions={up: kinds.Q8_0})

    both = parameters(path, keep_quantized=True).matrix({gate: 64, up: 64}, 64)

    assert isinstance(both, Stacked)
    inputs = torch.randn(2, 64).bfloat16()
    state = model.state_dict()
    expected = inputs.float() @ torch.cat((state[gate], state[up])).T
    assert (both.multiply(inputs).float() - expected).norm() <= 0.15 * expected.norm()


@pytest.mark.parametrize("kind", ["Q4_0", "Q8_0", "F16"])
@pytest.mark.parametrize(
    ("wanted", "layer", "embedding"),
    [(Storage.EIGHT_BIT, Int8, Int8), (Storage.FOUR_BIT, Int4, Int8)],
)
def test_a_request_decides_instead_of_the_file(
    tmp_path: Path, kind: str, wanted: Storage, layer: type, embedding: type
) -> None:
    model = tiny("llama", hidden_size=64, intermediate_size=64)
    path = write_gguf(tmp_path / "m.gguf", model, "llama", gguf.GGMLQuantizationType[kind])
    name = "model.layers.0.mlp.up_proj.weight"
    found = parameters(path, wanted=wanted)

    matrix = found.matrix({name: 64}, 64)

    assert isinstance(matrix, layer)
    assert isinstance(found.table("model.embed_tokens.weight", VOCAB_SIZE, 64), embedding)
    inputs = torch.randn(3, 64).bfloat16()
    expected = inputs.float() @ model.state_dict()[name].T
    assert (matrix.multiply(inputs).float() - expected).norm() <= 0.15 * expected.norm()


@pytest.mark.parametrize(
    ("dtype", "quantize", "device", "expected"),
    [
        ("bfloat16", "none", "cpu", (torch.bfloat16, False, None)),
        ("float32", "auto", "cpu", (torch.float32, False, None)),
        ("auto", "int8", "cpu", (torch.bfloat16, True, Storage.EIGHT_BIT)),
        ("auto", "int4", "cpu", (torch.bfloat16, True, Storage.FOUR_BIT)),
        ("bfloat16", "nf4", "cuda", (torch.bfloat16, True, Storage.FOUR_BIT)),
        ("float16", "int8", "cuda", (torch.float16, True, Storage.EIGHT_BIT)),
    ],
)
def test_a_precision_is_what_was_asked_for(
    dtype: str, quantize: str, device: str, expected: tuple[torch.dtype, bool, Storage | None]
) -> None:
    assert choose_precision(dtype, quantize, torch.device(device)) == Precision(*expected)


@pytest.mark.parametrize(
    ("dtype", "quantize", "device", "text"),
    [
        ("auto", "nf4", "cpu", "nf4 needs a CUDA GPU; on a CPU use int4"),
        ("bfloat16", "int4", "cuda", "int4 is for CPUs; on a GPU use nf4"),
        ("float32", "int8", "cpu", "chooses its own precision; set OLLA_DTYPE to auto"),
    ],
)
def test_a_precision_that_cannot_be_had_is_refused(
    dtype: str, quantize: str, device: str, text: str
) -> None:
    with pytest.raises(BadInput, match=text):
        choose_precision(dtype, quantize, torch.device(device))


def test_a_model_of_floats_is_quantized_when_it_is_loaded(tmp_path: Path) -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 128}
    files = save_tiny_model(tmp_path, "llama", **sizes)
    tokens = torch.randint(0, 256, (20,))
    loaded = {
        quantize: load_model(files, dtype, "cpu", 0, lambda done, total: None, quantize=quantize)
        for quantize, dtype in (("none", "float32"), ("int8", "auto"), ("int4", "auto"))
    }

    exact, eight, four = (forward(model.network, tokens) for model in loaded.values())

    assert (eight - exact).norm() <= 0.1 * exact.norm()
    assert (four - exact).norm() <= 0.5 * exact.norm()
    exact_bytes, *fewer_bytes = (model.num_bytes for model in loaded.values())
    assert max(fewer_bytes) < exact_bytes / 2


@pytest.mark.skipif(
    not ((library := find_library()) and computes_floats(library)),
    reason="torch computes models of floats here",
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_floats_keep_the_precision_of_the_file_in_the_core(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    files = save_tiny_model(tmp_path, "llama", hidden_size=64, intermediate_size=128, dtype=dtype)
    tokens = torch.randint(0, 256, (20,))
    exact = load_model(files, "float32", "cpu", 0, lambda done, total: None)

    kept = load_model(files, "auto", "cpu", 0, lambda done, total: None)

    assert isinstance(kept.network, NativeDecoder)
    assert isinstance(exact.network, Decoder)
    assert kept.num_bytes <= 1.3 * exact.num_bytes * dtype.itemsize / 4
    expected = forward(exact.network, tokens)
    assert (forward(kept.network, tokens) - expected).norm() <= 2e-3 * expected.norm()


def test_transformers_modules_are_not_quantized_on_a_gpu(tmp_path: Path) -> None:
    files = save_tiny_model(tmp_path, "gpt_neox")
    precision = Precision(torch.bfloat16, keeps_quantized=True, wanted=Storage.EIGHT_BIT)

    with pytest.raises(BadInput, match=r"models of type gpt_neox .* on a GPU; set quantize"):
        load_network(open_checkpoint(files), files, precision, torch.device("cuda"), print)


def perplexity(model: LoadedModel) -> float:
    tokens = torch.tensor(model.tokenizer.encode(LICENSE.read_text()).ids[:NUM_TOKENS])
    logits = forward(model.network, tokens)
    return float(torch.nn.functional.cross_entropy(logits[:-1], tokens[1:]).exp())


@pytest.mark.weights
@pytest.mark.skipif(
    not computes_quantized(*AUTO) and find_library() is None,
    reason="nothing here computes fast with quantized weights",
)
def test_a_quantized_file_loses_less_than_a_hundredth_in_a_third_of_the_memory(
    smollm2: LoadedModel, smollm2_gguf: Path
) -> None:
    files = {"model.gguf": str(smollm2_gguf)}
    kept = load_model(files, "auto", "cpu", 0, lambda done, total: None)

    assert kept.num_bytes <= smollm2.num_bytes / 3
    assert perplexity(kept) <= 1.01 * perplexity(smollm2)
