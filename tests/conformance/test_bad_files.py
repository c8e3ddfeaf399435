"""Files that cannot be used are refused with the reason, and nothing comes of them."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.conftest import MODEL
from tests.conformance.daemon import Answer, Daemon
from tests.conformance.stored import Store
from tests.formats.gguf_writer import ARRAY, STRING, U32, GgufSpec, TensorSpec, string, tiny_model

pytestmark = [pytest.mark.weights, pytest.mark.usefixtures("store")]

NOWHERE = "sha256:" + 64 * "0"


# Weights


def import_gguf(store: Store, data: bytes) -> str:
    """The error of a create from this file."""
    answer = store.create(files={"model.gguf": store.upload(data)})
    assert answer.status == 400, answer
    return answer.error


TINY = tiny_model().to_bytes()


@pytest.mark.parametrize("length", range(0, len(TINY), 23))
def test_a_gguf_cut_anywhere_is_refused(store: Store, length: int) -> None:
    error = import_gguf(store, TINY[:length])

    if length < 4:
        assert error == "supplied file was not in GGUF format"
    else:
        assert error.startswith("model.gguf: ")


@pytest.mark.parametrize("share", [0.001, 0.01, 0.5, 1])
def test_the_real_gguf_cut_anywhere_is_refused(
    store: Store, smollm2_gguf: Path, share: float
) -> None:
    data = smollm2_gguf.read_bytes()

    assert import_gguf(store, data[: int(share * len(data)) - 1]).startswith("model.gguf: ")


def header(*, metadata: bytes = b"", num_entries: int = 0, num_tensors: int = 0) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, num_tensors, num_entries) + metadata


def with_tensor(**fields: Any) -> bytes:
    tensor = {"name": "token_embd.weight", "shape": (8, 3), "data": bytes(96), **fields}
    return GgufSpec(
        metadata={"general.architecture": "llama"}, tensors=[TensorSpec(**tensor)]
    ).to_bytes()


HUGE_ARRAY = string("a") + struct.pack("<IIQ", ARRAY, U32, 2**61)
HUGE_STRINGS = string("a") + struct.pack("<IIQ", ARRAY, STRING, 2**63)
HUGE_STRING = string("a") + struct.pack("<IQ", STRING, 2**64 - 1)
NESTED = string("a") + struct.pack("<I", ARRAY) + struct.pack("<IQ", ARRAY, 1) * 100_000
ABSURD = {
    "tensor behind the end": with_tensor(offset=2**40),
    "tensor partly behind the end": with_tensor(offset=32),
    "offset that wraps": with_tensor(offset=2**64 - 32),
    "offset between alignments": with_tensor(offset=1),
    "shape whose product wraps": with_tensor(shape=(2**32, 2**32)),
    "shape of nothing but maxima": with_tensor(shape=4 * (2**64 - 1,)),
    "too many dimensions": with_tensor(shape=9 * (1,)),
    "unknown tensor type": with_tensor(type_code=2**31),
    "name of a tensor twice": GgufSpec(
        tensors=2 * [TensorSpec("a", (1,), bytes(4))],
    ).to_bytes(),
    "2^60 tensors": header(num_tensors=2**60),
    "2^64 - 1 tensors": header(num_tensors=2**64 - 1),
    "2^60 entries": header(num_entries=2**60),
    "key without end": header(metadata=struct.pack("<Q", 2**62), num_entries=1),
    "text without end": header(metadata=HUGE_STRING, num_entries=1),
    "array without end": header(metadata=HUGE_ARRAY, num_entries=1),
    "texts without end": header(metadata=HUGE_STRINGS, num_entries=1),
    "arrays in arrays": header(metadata=NESTED, num_entries=1),
    "unknown type of a value": header(metadata=string("a") + b"\xff" * 12, num_entries=1),
    "version of another kind": b"GGUF" + struct.pack("<IQQ", 77, 0, 0),
    "big-endian": b"GGUF" + struct.pack(">IQQ", 3, 0, 0),
    "alignment of nothing": GgufSpec(
        metadata={"general.alignment": 0}, tensors=[TensorSpec("a", (1,), bytes(4))]
    ).to_bytes(),
}


@pytest.mark.parametrize("data", ABSURD.values(), ids=ABSURD)
def test_a_gguf_that_lies_is_refused(store: Store, data: bytes) -> None:
    assert import_gguf(store, data).startswith("model.gguf: ")


def test_an_error_of_a_streamed_create_is_its_last_line(store: Store, daemon: Daemon) -> None:
    body = {"model": "bad", "files": {"model.gguf": store.upload(TINY[:-1])}}

    answer = daemon.ask("POST", "/api/create", body)

    *progress, last = map(json.loads, answer.body.splitlines())
    assert (answer.status, progress) == (200, [{"status": "parsing GGUF"}])
    assert set(last) == {"error"} and last["error"].startswith("model.gguf: ")


@pytest.mark.parametrize(
    ("metadata", "error"),
    [
        ({"llama.block_count": 2**31}, "must be a positive whole number, not 2147483648"),
        ({"llama.embedding_length": 2**22}, "has shape (3, 8)"),
    ],
)
def test_a_model_whose_metadata_are_absurd_is_refused_when_it_is_loaded(
    daemon: Daemon, store: Store, metadata: dict[str, Any], error: str
) -> None:
    metadata = {"llama.feed_forward_length": 8, "tokenizer.ggml.model": "gpt2", **metadata}
    data = tiny_model(**metadata).to_bytes()
    assert store.create(files={"model.gguf": store.upload(data)}).status == 200
    before = daemon.runner_pids()

    shown = daemon.ask("POST", "/api/show", {"model": "bad"})
    answer = daemon.ask("POST", "/api/generate", {"model": "bad", "prompt": "a"})

    assert shown.status == 200
    assert answer.status == 400
    assert error in answer.error
    # Others may have had to go, since it says that it is large.
    assert set(daemon.runner_pids()) <= set(before)
    assert daemon.ask("DELETE", "/api/delete", {"model": "bad"}).status == 200


def repository(store: Store, weights: bytes, config: object = None) -> Answer:
    config = config or {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    files = {"config.json": json.dumps(config).encode(), "model.safetensors": weights}
    return store.create(files={name: store.upload(data) for name, data in files.items()})


def safetensors(tensors: dict[str, Any], data: bytes = b"", length: int | None = None) -> bytes:
    text = json.dumps(tensors).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(shape: list[int], start: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"w": {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}}


BROKEN_SAFETENSORS = {
    "empty": b"",
    "cut in the length": b"\x10\0\0",
    "cut in the header": safetensors(entry([2], 0, 8), bytes(8))[:20],
    "cut in the data": safetensors(entry([2], 0, 8), bytes(7)),
    "tensor behind the end": safetensors(entry([2], 2**40, 2**40 + 8), bytes(8)),
    "offsets the wrong way round": safetensors(entry([2], 8, 0), bytes(8)),
    "shape that is not the size": safetensors(entry([2**40], 0, 8), bytes(8)),
    "negative shape": safetensors(entry([-2], 0, 8), bytes(8)),
    "unknown dtype": safetensors(entry([2], 0, 8, "F3"), bytes(8)),
    "header of 2^63 bytes": safetensors({}, length=2**63),
    "header that is no JSON": struct.pack("<Q", 4) + b"nope",
}


@pytest.mark.parametrize("data", BROKEN_SAFETENSORS.values(), ids=BROKEN_SAFETENSORS)
def test_safetensors_that_are_broken_are_refused(store: Store, data: bytes) -> None:
    answer = repository(store, data)

    assert answer.status == 400
    assert answer.error.startswith("model.safetensors: ")


@pytest.mark.parametrize(
    ("files", "error"),
    [
        ({"notes.txt": b"hello"}, "unknown type"),
        ({"model.gguf": b"hello"}, "supplied file was not in GGUF format"),
        ({}, "neither 'from' or 'files' was specified"),
        ({"model.safetensors": safetensors(entry([2], 0, 8), bytes(8))}, "the safetensors files "
         "need the config.json of their model beside them"),
        ({"model.safetensors": b"", "config.json": b"[]"}, "config.json is not a JSON object"),
        ({"model.safetensors": b"", "config.json": b"{"}, "config.json is not JSON"),
        ({"model.safetensors": b"", "config.json": b"{}"}, "config.json names no architecture"),
    ],
)  # fmt: skip
def test_files_that_are_no_model_are_refused(
    store: Store, files: dict[str, bytes], error: str
) -> None:
    answer = store.create(files={name: store.upload(data) for name, data in files.items()})

    assert (answer.status, answer.error) == (400, error)


PICKLE = (
    "{} holds pickled objects, which can run any code when they are loaded: convert the weights "
    "to safetensors first (load them with transformers or peft where you trust them, then "
    "save_pretrained)"
)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "model.pt"])
def test_pickled_weights_are_refused_with_the_reason(store: Store, name: str) -> None:
    answer = store.create(files={name: store.upload(b"PK\3\4")})

    assert (answer.status, answer.error) == (400, PICKLE.format(name))


@pytest.mark.parametrize("field", ["files", "adapters"])
@pytest.mark.parametrize(
    "path",
    ["../model.gguf", "/etc/passwd", "a/../../b.gguf", "./a.gguf", "a//b.gguf", "a/", "", ".",
     "..", "..\\model.gguf", "a\0b.gguf"],
)  # fmt: skip
def test_paths_of_files_stay_relative(store: Store, field: str, path: str) -> None:
    base = {"from": MODEL} if field == "adapters" else {}

    answer = store.create(**base, **{field: {path: store.upload(TINY)}})

    assert (answer.status, answer.error) == (400, "file path must be relative")


@pytest.mark.parametrize("field", ["files", "adapters"])
@pytest.mark.parametrize(
    "digest",
    ["", "x", "sha256:", "sha256:" + 63 * "0", "sha256:" + 64 * "g", "md5:" + 64 * "0",
     "sha256:../../../../etc/passwd"],
)  # fmt: skip
def test_digests_of_files_are_checked(store: Store, field: str, digest: str) -> None:
    base = {"from": MODEL} if field == "adapters" else {}

    answer = store.create(**base, **{field: {"model.gguf": digest}})

    assert (answer.status, answer.error) == (400, "invalid digest format")


def test_a_file_that_was_not_uploaded_is_missed(store: Store) -> None:
    answer = store.create(files={"model.gguf": NOWHERE})

    assert (answer.status, answer.error) == (404, f'blob "{NOWHERE}" not found')


# Adapters

LORA = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
QUERY = "base_model.model.model.layers.0.self_attn.q_proj"


def lora_weights(
    module: str = QUERY,
    a: tuple[int, int] = (2, 576),
    b: tuple[int, int] = (576, 2),
    value: float = 0.0,
) -> bytes:
    sizes = [4 * a[0] * a[1], 4 * b[0] * b[1]]
    tensors = {
        f"{module}.lora_A.weight": {"dtype": "F32", "shape": a, "data_offsets": [0, sizes[0]]},
        f"{module}.lora_B.weight": {
            "dtype": "F32",
            "shape": b,
            "data_offsets": [sizes[0], sum(sizes)],
        },
    }
    return safetensors(tensors, struct.pack("<f", value) * (sum(sizes) // 4))


def adapt(store: Store, config: object, weights: bytes) -> Answer:
    files = {
        "adapter_config.json": json.dumps(config).encode(),
        "adapter_model.safetensors": weights,
    }
    adapters = {name: store.upload(data) for name, data in files.items()}
    return store.create(**{"from": MODEL}, adapters=adapters)


MISFIT = "adapter does not fit the base model: "


@pytest.mark.parametrize(
    ("config", "weights", "error"),
    [
        (LORA, lora_weights("base_model.model.transformer.h.0.attn.c_attn"),
         f"{MISFIT}it changes transformer.h.0.attn.c_attn, which is no linear layer of the base"),
        (LORA, lora_weights(QUERY.replace(".0.", ".30.")),
         f"{MISFIT}it changes model.layers.30.self_attn.q_proj, which is no linear layer of the "
         "base"),
        (LORA, lora_weights(a=(2, 577)),
         f"{MISFIT}{QUERY}.lora_A.weight is 2x577, the base needs ?x576"),
        (LORA, lora_weights(b=(192, 2)),
         f"{MISFIT}{QUERY}.lora_B.weight is 192x2, the base needs 576x?"),
        (LORA, lora_weights(a=(3, 576), b=(576, 3)),
         f"{QUERY}.lora_A.weight is 3x576 and its lora_B 576x3: the rank must be the same, and as "
         "adapter_config.json says (2)"),
        ({**LORA, "peft_type": "IA3"}, lora_weights(),
         "adapters of peft_type IA3 are not supported, only LORA"),
        ([], lora_weights(), "adapter_config.json is not a JSON object"),
        (LORA, safetensors({}), "adapter_model.safetensors holds no LoRA weights"),
        ({**LORA, "r": "2"}, lora_weights(),
         "adapter_config.json: r and rank_pattern must be ranks above 0"),
        (LORA, lora_weights(value=float("nan")),
         f"{QUERY}.lora_A.weight holds a number that is not finite"),
        (LORA, safetensors({}, length=10 * 2**30),
         "invalid safetensors file: its header of 10737418240 bytes is longer than 100000000"),
    ],
)  # fmt: skip
def test_an_adapter_that_does_not_fit_is_refused(
    store: Store, config: object, weights: bytes, error: str
) -> None:
    answer = adapt(store, config, weights)

    assert (answer.status, answer.error) == (400, error)


@pytest.mark.parametrize("length", [0, 7, 8, 40, 4000])
def test_an_adapter_that_is_cut_short_is_refused(store: Store, length: int) -> None:
    assert adapt(store, LORA, lora_weights()[:length]).status == 400


def test_a_pickled_adapter_is_refused_with_the_reason(store: Store) -> None:
    files = {"adapter_config.json": b"{}", "adapter_model.bin": b"PK\3\4"}

    answer = store.create(
        **{"from": MODEL}, adapters={name: store.upload(data) for name, data in files.items()}
    )

    assert (answer.status, answer.error) == (400, PICKLE.format("adapter_model.bin"))


def test_an_adapter_without_its_other_file_is_refused(store: Store) -> None:
    answer = store.create(
        **{"from": MODEL}, adapters={"adapter_model.safetensors": store.upload(lora_weights())}
    )

    assert answer.status == 400
    assert "adapter_config.json and adapter_model.safetensors" in answer.error
