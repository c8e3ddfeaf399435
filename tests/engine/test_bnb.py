"""What bitsandbytes packs: packed and unpacked bit for bit, loaded, and trained over (QLoRA)."""

from __future__ import annotations

import hashlib
import json
import math
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from olla.engine.conversion.hf_model import write_repository
from olla.engine.conversion.source import FloatModel
from olla.engine.engine import Engine
from olla.engine.fitting import kept_bytes
from olla.engine.loading import (
    LoadedModel,
    Precision,
    choose_core,
    keeps_packed,
    load_model,
    open_checkpoint,
    precision_of,
)
from olla.engine.matrices import BnbTensor
from olla.engine.matrices_cuda import BnbMatrices, BnbMatrix
from olla.engine.native.library import Kind, find_library
from olla.engine.native.packed import packed
from olla.engine.weights.bnb import (
    dequantize,
    quantize_int8,
    quantize_nf4,
    stored_tensors,
)
from olla.engine.weights.safetensors import SafetensorsCheckpoint
from olla.errors import FormatError
from olla.formats.bitsandbytes import parse_quant_state
from olla.modelfile.base_weights import BaseShapes
from olla.registry.weights import read_header
from tests.engine.test_adapters import generate, likeliest, save_adapter
from tests.engine.test_families import forward
from tests.tiny_model import files_of, save_tiny_model

TOKENS = torch.tensor([3, 80, 121, 9, 200, 46, 3])
SIZES: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16}
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# sha256 of what bitsandbytes 0.50.2 makes of `weights(torch.float32)`: nf4's packed bytes, and
# int8's rows and scales.
NF4_DIGEST = "6c30312f341cc92a0fcefbd5daf7e4d595f0b745a03a2ca5d9199991fded211c"
INT8_DIGEST = "7b9e4434d4efda76e16f04f79679d5dc2e18c856135bfa8045a256a2b2daede9"


def weights(dtype: torch.dtype) -> torch.Tensor:
    """Numbers that any version of torch makes."""
    numbers = torch.arange(96 * 128, dtype=torch.float64)
    return ((numbers * numbers * 7 % 2003 - 1001) / 50000).view(96, 128).to(dtype)


def digest(*tensors: torch.Tensor) -> str:
    return hashlib.sha256(b"".join(t.contiguous().numpy().tobytes() for t in tensors)).hexdigest()


def save_packed(source: Path, folder: Path, packing: str) -> dict[str, str]:
    folder.mkdir()
    files = files_of(source)
    write_repository(FloatModel(files), folder, files, lambda done, total: None, packing)
    return files_of(folder)


def save_unpacked(files: dict[str, str], folder: Path) -> Path:
    """The same values in floats, for transformers and peft."""
    checkpoint = SafetensorsCheckpoint({name: Path(path) for name, path in files.items()})
    tensors = {name: torch.empty(checkpoint.shape(name) or ()) for name in checkpoint.names}
    for name, tensor in tensors.items():
        checkpoint.read(name, tensor)
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = {**checkpoint.config}
    del config["quantization_config"]
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_bytes(Path(files["tokenizer.json"]).read_bytes())
    return folder


def load(files: dict[str, str], dtype: str = "float32") -> LoadedModel:
    return load_model(files, dtype, "cpu", 0, lambda done, total: None)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    save_tiny_model(folder, **SIZES)
    return folder


@pytest.fixture(scope="module", params=["nf4", "int8"])
def base(request: pytest.FixtureRequest, source: Path, tmp_path_factory: Any) -> dict[str, str]:
    return save_packed(source, tmp_path_factory.mktemp(request.param) / "base", request.param)


def test_known_numbers_are_packed_as_the_package_packs_them() -> None:
    nf4, int8 = quantize_nf4(weights(torch.float32)), quantize_int8(weights(torch.float32))

    assert digest(nf4.values) == NF4_DIGEST
    assert digest(int8.values, int8.companions["SCB"]) == INT8_DIGEST


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_bits_are_those_of_the_package(dtype: torch.dtype) -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    values = weights(dtype)

    nf4, int8 = quantize_nf4(values), quantize_int8(values)

    expected, state = functional.quantize_4bit(values, quant_type="nf4", compress_statistics=True)
    assert torch.equal(nf4.values, expected)
    assert torch.equal(nf4.companions["nested_quant_map"], state.state2.code)
    assert torch.equal(nf4.companions["nested_absmax"], state.state2.absmax)
    # The package's CPU kernel looks these up coarsely, and is at times a step off its GPU kernel.
    assert (nf4.companions["absmax"].int() - state.absmax.int()).abs().max() <= 1
    theirs = stored_tensors("x", nf4) | {
        f"x.{name}": part for name, part in state.as_dict(packed=True).items()
    }
    assert theirs.keys() == stored_tensors("x", nf4).keys()
    made = BnbTensor.of(nf4.shape, expected, {**nf4.companions, "absmax": state.absmax}, nf4.state)
    assert torch.equal(dequantize(made), functional.dequantize_4bit(expected, state))
    rows, scales, _ = functional.int8_vectorwise_quant(values.half())
    assert torch.equal(int8.values, rows)
    assert torch.equal(int8.companions["SCB"], scales)
    assert torch.equal(dequantize(int8), functional.int8_vectorwise_dequant(rows, scales))


@pytest.mark.parametrize(("pack", "error"), [(quantize_nf4, 0.12), (quantize_int8, 0.01)])
@pytest.mark.parametrize("shape", [(3, 64), (5, 7), (1, 1), (2, 200)])
def test_what_is_packed_is_near_to_what_it_was(pack: Any, error: float, shape: Any) -> None:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0))

    found = dequantize(pack(values))

    assert (found - values).norm() <= error * values.norm()


def test_zeros_stay_zeros() -> None:
    for pack in (quantize_nf4, quantize_int8):
        assert torch.equal(dequantize(pack(torch.zeros(4, 64))), torch.zeros(4, 64))


def test_a_packed_model_computes_with_the_values_that_its_files_stand_for(
    base: dict[str, str], tmp_path: Path
) -> None:
    folder = save_unpacked(base, tmp_path / "unpacked")
    reference = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

    found = forward(load(base).network, TOKENS)

    with torch.inference_mode():
        expected = reference(TOKENS[None]).logits[0]
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_the_files_load_in_transformers(base: dict[str, str]) -> None:
    pytest.importorskip("bitsandbytes")
    folder = Path(base["config.json"]).parent
    reference = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

    with torch.inference_mode():
        expected = reference(TOKENS[None]).logits[0]

    # In int8 the package rounds activations too.
    found = forward(load(base).network, TOKENS)
    assert (found - expected).norm() <= 0.05 * expected.norm()


def test_a_lora_over_an_nf4_base_is_what_peft_computes(source: Path, tmp_path: Path) -> None:
    base = save_packed(source, tmp_path / "nf4", "nf4")
    stranger = save_adapter(source, tmp_path / "stranger", seed=1)
    reference = save_adapter(
        save_unpacked(base, tmp_path / "unpacked"), tmp_path / "adapter", seed=1, use_dora=True
    )
    replies = generate(Engine(load(base)), [tmp_path / "adapter", None])

    length = len(replies[0]) - 20
    assert replies[0][length:] == likeliest(reference, replies[0])[length - 1 : -1]
    assert replies[0][length:] != likeliest(stranger, replies[0])[length - 1 : -1]
    assert replies[0] != replies[1]


@pytest.mark.skipif(find_library() is None, reason="no compiled core")
@pytest.mark.parametrize(("packing", "kind"), [("nf4", Kind.F32), ("int8", Kind.Q8)])
def test_the_core_keeps_what_it_can(source: Path, tmp_path: Path, packing: str, kind: Kind) -> None:
    """nf4 in the precision its state names, int8 in eight bits."""
    files = save_packed(source, tmp_path / packing, packing)
    model: Any = load(files, "auto").network

    matrix = packed(model._decoder.blocks[0].mlp.down.weight)

    assert {part.kind for part in matrix.parts} == {kind}
    expected = forward(load(files).network, TOKENS)
    assert (forward(model, TOKENS) - expected).norm() <= 0.02 * expected.norm()


def test_a_packed_model_says_what_it_was_made_of(base: dict[str, str], source: Path) -> None:
    paths, before = ({n: Path(p) for n, p in files.items()} for files in (base, files_of(source)))

    header = read_header(paths)

    assert header.file_type == ("NF4" if "int8" not in base["config.json"] else "INT8")
    assert header.parameter_count == read_header(before).parameter_count
    assert BaseShapes.of(paths).shapes == BaseShapes.of(before).shapes


def test_experts_that_are_packed_have_the_names_that_adapters_have(tmp_path: Path) -> None:
    (tmp_path / "float").mkdir()
    files = save_tiny_model(tmp_path / "float", "mixtral", num_local_experts=2)
    tensors = load_file(files["model.safetensors"])
    name = next(name for name in tensors if name.endswith("experts.1.w2.weight"))
    pack(tmp_path / "packed", files, tensors | stored_tensors(name, quantize_nf4(tensors[name])))

    before, after = (
        BaseShapes.of({name: Path(path) for name, path in found.items()})
        for found in (files, files_of(tmp_path / "packed"))
    )

    assert after.shapes == before.shapes
    assert after.get("model.layers.0.mlp.experts.1.down_proj") == (32, 48)


def test_other_architectures_are_unpacked_for_transformers(tmp_path: Path) -> None:
    (tmp_path / "float").mkdir()
    files = save_tiny_model(tmp_path / "float", "gpt_neox", hidden_size=64, intermediate_size=128)
    name = "gpt_neox.layers.0.mlp.dense_h_to_4h.weight"
    tensors = load_file(files["model.safetensors"])
    made = quantize_nf4(tensors.pop(name))
    pack(tmp_path / "packed", files, tensors | stored_tensors(name, made))

    found = load(files_of(tmp_path / "packed")).network

    half = Precision(torch.bfloat16, keeps_quantized=True, wanted=None)
    checkpoint = open_checkpoint(files_of(tmp_path / "packed"))
    assert choose_core(Path("unused"), checkpoint, half) == (None, half)
    save_file({**tensors, name: dequantize(made)}, files["model.safetensors"], {"format": "pt"})
    assert torch.equal(forward(found, TOKENS), forward(load(files).network, TOKENS))


def pack(folder: Path, files: dict[str, str], tensors: dict[str, torch.Tensor]) -> None:
    """A repository with these tensors, quantized by its config."""
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "tokenizer.json").write_bytes(Path(files["tokenizer.json"]).read_bytes())
    config = json.loads(Path(files["config.json"]).read_text())
    config["quantization_config"] = {"load_in_4bit": True}
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"absmax": None}, r"in four bits, but the weights lack .*absmax"),
        ({"absmax": torch.zeros(3, dtype=torch.uint8)}, "has 3 bytes, its quantization state says"),
        ({"quant_state.bitsandbytes__nf4": torch.zeros(9, dtype=torch.uint8)},
         "is not a quantization state that bitsandbytes writes"),
        ({"quant_state.bitsandbytes__nf4": torch.zeros(70000, dtype=torch.uint8)},
         "is not a text of at most 65536 bytes"),
    ],
)  # fmt: skip
def test_what_does_not_fit_together_is_refused(
    source: Path, tmp_path: Path, change: dict[str, torch.Tensor | None], text: str
) -> None:
    files = save_packed(source, tmp_path / "packed", "nf4")
    tensors = load_file(files["model.safetensors"])
    for end, tensor in change.items():
        name = f"model.layers.1.mlp.up_proj.weight.{end}"
        del tensors[name]
        if tensor is not None:
            tensors[name] = tensor
    save_file(tensors, files["model.safetensors"], {"format": "pt"})

    with pytest.raises(FormatError, match=text):
        load(files)


def test_other_methods_are_refused_by_name(source: Path, tmp_path: Path) -> None:
    files = save_packed(source, tmp_path / "packed", "nf4")
    config = json.loads(Path(files["config.json"]).read_text())
    config["quantization_config"]["quant_method"] = "gptq"
    Path(files["config.json"]).write_text(json.dumps(config))

    with pytest.raises(FormatError, match="quantized by gptq, which olla does not read"):
        load(files)


class FakeParameter(SimpleNamespace):
    @classmethod
    def from_prequantized(cls, data: torch.Tensor, stats: dict[str, Any], **others: Any) -> Any:
        return cls(data=data, stats=stats, nbytes=data.nbytes, **others)


def fake_linear(columns: int, rows: int, **settings: Any) -> Any:
    return SimpleNamespace(shape=(rows, columns), settings=settings, weight=None)


@pytest.fixture
def bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("bitsandbytes")
    module.__spec__ = ModuleSpec("bitsandbytes", None)
    layers = SimpleNamespace(
        Linear4bit=fake_linear,
        Linear8bitLt=fake_linear,
        Params4bit=FakeParameter,
        Int8Params=lambda data, **others: FakeParameter(data=data, nbytes=data.nbytes, **others),
    )
    monkeypatch.setattr(module, "nn", layers, raising=False)
    monkeypatch.setitem(sys.modules, "bitsandbytes", module)


@pytest.mark.usefixtures("bitsandbytes")
def test_a_gpu_takes_what_is_packed_as_it_is(base: dict[str, str]) -> None:
    checkpoint = SafetensorsCheckpoint({name: Path(path) for name, path in base.items()})
    tensor = checkpoint.raw("model.layers.0.mlp.down_proj.weight")
    assert isinstance(tensor, BnbTensor)

    matrix: Any = BnbMatrix.filed(tensor, torch.empty(0, dtype=torch.bfloat16))

    weight = matrix._layer.weight
    assert (matrix.shape, matrix.like.dtype) == (tensor.shape, torch.bfloat16)
    assert digest(weight.data) == digest(tensor.values)
    if tensor.state is None:
        assert torch.equal(weight.SCB, tensor.companions["SCB"])
    else:
        assert matrix._layer.settings["compute_dtype"] is torch.bfloat16
        text = bytes(weight.stats["quant_state.bitsandbytes__nf4"].tolist())
        assert parse_quant_state(text, "x") == tensor.state
        assert weight.stats.keys() >= tensor.companions.keys()
    assert BnbMatrices(torch.bfloat16).filed(tensor, torch.device("cpu")) is None


@pytest.mark.usefixtures("bitsandbytes")
def test_what_stays_packed_on_a_gpu_is_placed_by_its_packed_bytes(base: dict[str, str]) -> None:
    checkpoint = SafetensorsCheckpoint({name: Path(path) for name, path in base.items()})
    precision = precision_of(checkpoint, "auto", "auto", torch.device("cuda"))

    sizes = {name: kept_bytes(checkpoint, name, precision) for name in checkpoint.names}

    raw = {name: checkpoint.raw(name) for name in sizes}
    expected = {n: found.num_bytes for n, found in raw.items() if isinstance(found, BnbTensor)}
    assert len(expected) == 14  # the products of two layers
    assert {name: sizes[name] for name in expected} == expected
    embedding = "model.embed_tokens.weight"
    assert sizes[embedding] == 2 * math.prod(checkpoint.shape(embedding) or ())


@pytest.mark.usefixtures("bitsandbytes")
def test_only_what_is_packed_stays_so_on_a_gpu(base: dict[str, str], source: Path) -> None:
    assert keeps_packed(open_checkpoint(base))
    assert not keeps_packed(open_checkpoint(files_of(source)))
