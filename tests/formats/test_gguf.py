"""read_gguf on files built by hand and on the real one: what it reads, and what it refuses."""

from __future__ import annotations

import random
import struct
from dataclasses import replace
from pathlib import Path

import gguf
import pytest

from olla.errors import FormatError
from olla.formats.ggml_types import FILE_TYPES
from olla.formats.gguf import GgmlType, GgufTensor, MetadataValue, read_gguf
from tests.formats.gguf_writer import (
    ARRAY,
    STRING,
    U32,
    GgufSpec,
    Raw,
    TensorSpec,
    Value,
    string,
    tiny_model,
    typed,
    zeros,
)

Q4_0 = 2
TINY = tiny_model().to_bytes()


def refusal(tmp_path: Path, spec: GgufSpec | bytes) -> str:
    path = tmp_path / "model.gguf"
    path.write_bytes(spec if isinstance(spec, bytes) else spec.to_bytes())
    with pytest.raises(FormatError) as caught:
        read_gguf(path)
    return str(caught.value)


@pytest.mark.parametrize("version", [2, 3])
def test_reads_metadata_and_tensors(tmp_path: Path, version: int) -> None:
    path = replace(tiny_model(), version=version).write(tmp_path / "model.gguf")

    file = read_gguf(path)

    assert file.path == path
    assert file.metadata["general.architecture"] == "llama"
    assert file.metadata["llama.context_length"] == 2048
    assert file.metadata["tokenizer.ggml.tokens"] == ("<s>", "a", "b")
    assert file.tensors[0].name == "token_embd.weight"
    assert file.tensors[0].shape == (3, 8)
    assert file.tensors[0].type is GgmlType.F32
    assert file.tensors[0].size_bytes == 96


@pytest.mark.parametrize(
    ("type_code", "data", "value"),
    [
        (0, b"\xff", 255),
        (1, b"\xff", -1),
        (2, b"\xff\xff", 65535),
        (3, b"\xfe\xff", -2),
        (4, struct.pack("<I", 7), 7),
        (5, struct.pack("<i", -7), -7),
        (6, struct.pack("<f", 0.5), 0.5),
        (7, b"\x01", True),
        (7, b"\x00", False),
        (8, string("é"), "é"),
        (10, struct.pack("<Q", 2**63), 2**63),
        (11, struct.pack("<q", -(2**62)), -(2**62)),
        (12, struct.pack("<d", 1.25), 1.25),
        (ARRAY, struct.pack("<IQ", 7, 2) + b"\x01\x00", (True, False)),
        (ARRAY, struct.pack("<IQ2h", 3, 2, -1, 1), (-1, 1)),
        (ARRAY, struct.pack("<IQ", STRING, 0), ()),
    ],
)
def test_reads_every_type_of_value(
    tmp_path: Path, type_code: int, data: bytes, value: MetadataValue
) -> None:
    path = GgufSpec({"k": Raw(type_code, data)}).write(tmp_path / "f")

    read = read_gguf(path).metadata["k"]

    assert read == value
    assert type(read) is type(value)


def test_bytes_that_are_not_utf8_in_a_vocabulary_are_replaced(tmp_path: Path) -> None:
    tokens = Raw(ARRAY, struct.pack("<IQ", STRING, 2) + string(b"\xf0\x9f") + string("ok"))
    path = GgufSpec({"tokenizer.ggml.tokens": tokens, "general.name": b"\xff"}).write(
        tmp_path / "f"
    )

    metadata = read_gguf(path).metadata

    assert metadata == {"tokenizer.ggml.tokens": ("\N{REPLACEMENT CHARACTER}", "ok"),
                        "general.name": "\N{REPLACEMENT CHARACTER}"}  # fmt: skip


def test_offsets_count_from_the_start_of_the_file_and_follow_the_alignment(tmp_path: Path) -> None:
    tensors = [TensorSpec("a", (1,), b"AAAA"), TensorSpec("b", (1,), b"BBBB")]
    spec = GgufSpec({"general.alignment": 128}, tensors, alignment=128)
    path = spec.write(tmp_path / "f")

    file = read_gguf(path)

    data = path.read_bytes()
    assert [data[t.offset : t.offset + t.size_bytes] for t in file.tensors] == [b"AAAA", b"BBBB"]
    assert file.tensors[1].offset - file.tensors[0].offset == 128


@pytest.mark.parametrize(
    ("kind", "shape", "size_bytes"),
    [(GgmlType.Q4_0, (64, 3), 3 * 2 * 18), (GgmlType.Q6_K, (256,), 210), (GgmlType.BF16, (5,), 10)],
)
def test_sizes_follow_the_blocks_of_the_type(
    tmp_path: Path, kind: GgmlType, shape: tuple[int, ...], size_bytes: int
) -> None:
    path = GgufSpec({}, [TensorSpec("t", shape, bytes(size_bytes), kind)]).write(tmp_path / "f")

    assert read_gguf(path).tensors[0].size_bytes == size_bytes


def test_a_file_without_tensors_is_fine(tmp_path: Path) -> None:
    assert read_gguf(GgufSpec({"a": 1}).write(tmp_path / "f")).tensors == ()


def test_block_sizes_and_numbers_are_those_of_ggml() -> None:
    theirs = {
        kind.name: (int(kind), *gguf.GGML_QUANT_SIZES[kind]) for kind in gguf.GGMLQuantizationType
    }
    ours = {kind.name: (int(kind), kind.block_elements, kind.block_bytes) for kind in GgmlType}

    assert ours.items() <= theirs.items()


def test_file_type_names_are_those_of_llama_cpp() -> None:
    theirs = {int(kind): kind.name.partition("_")[2] for kind in gguf.LlamaFileType}

    assert FILE_TYPES.items() <= theirs.items()


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (GgufSpec(magic=b"GGML"), "not a GGUF file: it does not begin with GGUF"),
        (GgufSpec(version=1), "GGUF version 1 is not supported, only 2 and 3"),
        (GgufSpec(version=4), "GGUF version 4 is not supported, only 2 and 3"),
        (GgufSpec(version=0), "GGUF version 0 is not supported, only 2 and 3"),
        (GgufSpec(version=3 << 24), "big-endian GGUF files are not supported"),
    ],
)
def test_refuses_other_files(tmp_path: Path, spec: GgufSpec, text: str) -> None:
    assert refusal(tmp_path, spec) == text


@pytest.mark.parametrize("data", [b"", b"G", b"GGU"])
def test_refuses_a_file_too_short_for_the_magic(tmp_path: Path, data: bytes) -> None:
    assert refusal(tmp_path, data) == "not a GGUF file: it does not begin with GGUF"


@pytest.mark.parametrize("count", [2, 1000, 2**32, 2**63, 2**64 - 1])
def test_refuses_counts_that_cannot_fit(tmp_path: Path, count: int) -> None:
    fits = f"invalid GGUF file: {count} {{}} do not fit in the 24 bytes it has"
    assert refusal(tmp_path, GgufSpec(num_tensors=count)) == fits.format("tensors")
    assert refusal(tmp_path, GgufSpec(num_entries=count)) == fits.format("metadata entries")


@pytest.mark.parametrize("count", [50, 2**40, 2**64 - 1])
@pytest.mark.parametrize("type_code", [STRING, U32])
def test_refuses_arrays_that_cannot_fit(tmp_path: Path, type_code: int, count: int) -> None:
    spec = GgufSpec({"k": Raw(ARRAY, struct.pack("<IQ", type_code, count))})

    assert f"invalid GGUF file: {count} " in refusal(tmp_path, spec)


@pytest.mark.parametrize("length", [100, 2**40, 2**64 - 1])
def test_refuses_strings_that_run_past_the_end(tmp_path: Path, length: int) -> None:
    spec = GgufSpec({"k": Raw(STRING, struct.pack("<Q", length) + b"x")})

    assert refusal(tmp_path, spec).startswith("invalid GGUF file: truncated, it ends at byte ")


def tensor(**changes: object) -> GgufSpec:
    """A file with one tensor that is right but for `changes`."""
    values = {"name": "t", "shape": (32,), "data": bytes(128)} | changes
    return GgufSpec({}, [TensorSpec(**values)])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (GgufSpec({"k": Raw(13, b"")}), "unknown metadata type 13"),
        (GgufSpec({"k": Raw(ARRAY, struct.pack("<IQ", 77, 0))}), "unknown metadata type 77"),
        (
            GgufSpec({"k": Raw(ARRAY, struct.pack("<IQ", ARRAY, 0))}),
            "GGUF arrays of arrays are not supported",
        ),
        (GgufSpec({"k": 1}, extra_entries=string("k") + typed(2)), "duplicate metadata key 'k'"),
        (GgufSpec(extra_entries=string(b"\xff") + typed(2)), "a name is not UTF-8 text"),
        (GgufSpec({}, [zeros("a", (1,)), zeros("a", (1,))]), "duplicate tensor 'a'"),
        (tensor(shape=(1, 1, 1, 1, 32)), "tensor 't' has 5 dimensions"),
        (tensor(shape=(0, 4)), "tensor 't' has 0 elements"),
        (tensor(shape=(2**32, 2**32)), f"tensor 't' has {2**64} elements"),
        (tensor(shape=(2**63,)), f"tensor 't' has {2**63} elements"),
        (tensor(type_code=4), "tensor 't' has the unsupported type 4"),
        (tensor(type_code=4_000_000_000), "the unsupported type 4000000000"),
        (
            tensor(shape=(16, 2), type_code=Q4_0),
            "rows of 16 in tensor 't' are not whole Q4_0 blocks of 32",
        ),
        (tensor(offset=8), "tensor 't' is not aligned"),
        (tensor(offset=32), "tensor 't' ends at byte 224, past the end of the file at 192"),
        (tensor(offset=2**63), "past the end of the file at 192"),
        (tensor(shape=(33,)), "tensor 't' ends at byte 196, past the end of the file at 192"),
        (
            GgufSpec({}, [zeros("a", (16,)), TensorSpec("b", (16,), bytes(64), offset=32)]),
            "tensor 'b' overlaps another",
        ),
    ],
)
def test_refuses_headers_that_lie(tmp_path: Path, spec: GgufSpec, text: str) -> None:
    assert text in refusal(tmp_path, spec)


@pytest.mark.parametrize("alignment", [0, 3, 48, -32, 32.0, "32", True])
def test_refuses_an_alignment_that_is_no_power_of_two(tmp_path: Path, alignment: Value) -> None:
    text = f"invalid GGUF file: its alignment is {alignment!r}, which is not a power of two"
    assert refusal(tmp_path, GgufSpec({"general.alignment": alignment})) == text


def test_a_large_alignment_alone_is_harmless(tmp_path: Path) -> None:
    read_gguf(GgufSpec({"general.alignment": 2**31}).write(tmp_path / "f"))


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    for length in range(len(TINY)):
        path.write_bytes(TINY[:length])
        with pytest.raises(FormatError):
            read_gguf(path)


def test_damaged_bytes_end_in_an_error_or_in_tensors_inside_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    chance = random.Random(0)
    for _ in range(1500):
        data = bytearray(TINY)
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data))] = chance.choice((0, 1, 9, 127, 255, 32))
        path.write_bytes(data)
        try:
            file = read_gguf(path)
        except FormatError:
            continue
        assert all(_is_inside(tensor, len(data)) for tensor in file.tensors)


def _is_inside(tensor: GgufTensor, size: int) -> bool:
    return tensor.size_bytes > 0 and 0 < tensor.offset <= size - tensor.size_bytes


def test_a_missing_file_is_the_callers_to_explain(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_gguf(tmp_path / "absent.gguf")


@pytest.mark.weights
def test_reads_the_real_file_as_the_gguf_package_does(smollm2_gguf: Path) -> None:
    theirs = gguf.GGUFReader(smollm2_gguf)
    file = read_gguf(smollm2_gguf)

    assert [
        (t.name, list(reversed(t.shape)), t.type.name, t.offset, t.size_bytes) for t in file.tensors
    ] == [
        (t.name, t.shape.tolist(), t.tensor_type.name, t.data_offset, t.n_bytes)
        for t in theirs.tensors
    ]
    for key, value in file.metadata.items():
        field = theirs.fields[key]
        if isinstance(value, tuple):  # its end shows that nothing before was misread
            assert value[-50:] == tuple(field.contents(slice(-50, None)))
        else:
            assert value == field.contents()
