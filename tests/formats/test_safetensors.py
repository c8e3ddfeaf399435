"""read_safetensors on files built by hand and by the official writer: what it reads and refuses."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from olla.errors import FormatError
from olla.formats import safetensors
from olla.formats.safetensors import SafetensorsTensor, read_safetensors


def encode(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> object:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


RIGHT = encode(
    {
        "__metadata__": {"format": "pt"},
        "b": entry("BF16", [2, 3], [8, 20]),
        "a": entry("F32", [2], [0, 8]),
        "empty": entry("I64", [0, 5], [20, 20]),
    },
    bytes(20),
)


def refusal(tmp_path: Path, data: bytes) -> str:
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    with pytest.raises(FormatError) as caught:
        read_safetensors(path)
    return str(caught.value)


def test_reads_tensors_in_the_order_of_their_bytes(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(RIGHT)
    start = len(RIGHT) - 20

    file = read_safetensors(path)

    assert file.metadata == {"format": "pt"}
    assert file.tensors == (
        SafetensorsTensor("a", "F32", (2,), start, 8),
        SafetensorsTensor("b", "BF16", (2, 3), start + 8, 12),
        SafetensorsTensor("empty", "I64", (0, 5), start + 20, 0),
    )


def test_reads_what_the_official_writer_writes(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    arrays: dict[str, np.ndarray[Any, Any]] = {
        "x": np.arange(6, dtype=np.float32).reshape(2, 3),
        "y": np.arange(4, dtype=np.int8),
        "scalar": np.array(1.5, dtype=np.float16),
    }
    save_file(arrays, path, metadata={"made": "here"})

    file = read_safetensors(path)

    data = path.read_bytes()
    assert {tensor.name: tensor.shape for tensor in file.tensors} == {
        name: array.shape for name, array in arrays.items()
    }
    assert {t.name: data[t.offset : t.offset + t.size_bytes] for t in file.tensors} == {
        name: array.tobytes() for name, array in arrays.items()
    }


def test_a_file_without_tensors_is_fine(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(encode({}))

    assert read_safetensors(path).tensors == ()


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "it is too short"),
        (b"1234567", "it is too short"),
        (b"\xff" * 8, f"its header of {2**64 - 1} bytes is longer than 100000000"),
        ((50).to_bytes(8, "little"), "its header of 50 bytes ends past the end of the file"),
        (encode(b"{"), "its header is not JSON"),
        (encode(b"\xff\xff"), "its header is not JSON"),
        (encode(b"[" * 100_000), "its header is not JSON"),
        (encode([]), "its header is not a JSON object"),
        (encode(b'{"a": 1, "a": 2}'), "a name occurs twice in its header"),
        (encode({"__metadata__": []}), "its metadata is not an object of strings"),
        (encode({"__metadata__": {"a": 1}}), "its metadata is not an object of strings"),
        (encode({"a": 1}), "tensor 'a' is not described by an object"),
        (encode({"a": entry(dtype="F7")}), "tensor 'a' has the unknown dtype 'F7'"),
        (encode({"a": entry(dtype=[])}), "tensor 'a' has the unknown dtype []"),
        (encode({"a": {"dtype": "F32"}}), "tensor 'a' lacks a shape or a place"),
        (encode({"a": entry(shape="2")}), "tensor 'a' lacks a shape or a place"),
        (encode({"a": entry(shape=[-1])}), "tensor 'a' has a size that is not a whole number"),
        (encode({"a": entry(shape=[1.0])}), "tensor 'a' has a size that is not a whole number"),
        (encode({"a": entry(shape=[True])}), "tensor 'a' has a size that is not a whole number"),
        (encode({"a": entry(shape=[2**63])}), "tensor 'a' has a size that is not a whole number"),
        (encode({"a": entry(shape=[1] * 33)}), "tensor 'a' has 33 dimensions"),
        (encode({"a": entry(offsets=[0])}), "the place of tensor 'a' does not fit its shape"),
        (encode({"a": entry(offsets=[8, 0])}), "the place of tensor 'a' does not fit its shape"),
        (encode({"a": entry(offsets=[0, 9])}), "the place of tensor 'a' does not fit its shape"),
        (encode({"a": entry("F4", [1], [0, 1])}), "the place of tensor 'a' does not fit its shape"),
        (encode({"a": entry(offsets=[4, 12])}, bytes(12)), "overlaps another or leaves a gap"),
        (encode({"a": entry(), "b": entry()}, bytes(8)), "overlaps another or leaves a gap"),
        (encode({"a": entry()}, bytes(7)), "its tensors end at byte"),
        (encode({"a": entry()}, bytes(9)), "its tensors end at byte"),
        (encode({"a": entry(shape=[2**61], offsets=[0, 2**63 - 1])}), "does not fit its shape"),
    ],
)
def test_refuses_what_lies(tmp_path: Path, data: bytes, text: str) -> None:
    message = refusal(tmp_path, data)

    assert message.startswith("invalid safetensors file: ")
    assert text in message


def test_refuses_a_header_past_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "f"
    with path.open("wb") as file:
        file.write((safetensors.MAX_HEADER_BYTES + 1).to_bytes(8, "little"))
        file.truncate(safetensors.MAX_HEADER_BYTES + 100)  # sparse: takes no space

    with pytest.raises(FormatError, match="is longer than 100000000"):
        read_safetensors(path)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    for length in range(len(RIGHT)):
        refusal(tmp_path, RIGHT[:length])


def test_damaged_bytes_end_in_an_error_or_in_tensors_inside_the_file(tmp_path: Path) -> None:
    path = tmp_path / "f"
    chance = random.Random(0)
    for _ in range(2000):
        data = bytearray(RIGHT)
        for _ in range(chance.randint(1, 3)):
            data[chance.randrange(len(data))] = chance.choice(b'\x00\xff"{}[],:019-eE.')
        path.write_bytes(data)
        try:
            file = read_safetensors(path)
        except FormatError:
            continue
        assert all(t.offset + t.size_bytes <= len(data) for t in file.tensors)
