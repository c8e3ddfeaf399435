"""Split GGUF files, by llama.cpp's writer and, where they are wrong, by our own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from olla.errors import FormatError
from olla.formats.gguf import read_gguf
from olla.formats.gguf_parts import PartName, WholeGguf, group_parts, is_part, join_parts
from tests.formats.gguf_writer import GgufSpec, TensorSpec, Value, tiny_model
from tests.gguf_split import split_gguf
from tests.modelfile.conftest import write_gguf

U16 = 2


def join(*paths: Path) -> WholeGguf:
    return join_parts({path.name: read_gguf(path) for path in paths})


def part(folder: Path, number: int, *tensors: TensorSpec, **changes: Value) -> Path:
    """Part `number` of two, as gguf-split would write it but for `changes`."""
    metadata = {"split.no": number - 1, "split.count": 2, "split.tensors.count": 2}
    named = {key.replace("__", "."): value for key, value in changes.items()}
    base = tiny_model().metadata if number == 1 else {}
    spec = GgufSpec({**base, **metadata, **named}, tensors)
    return spec.write(folder / f"t-0000{number}-of-00002.gguf")


EMBEDDING, NORM = tiny_model().tensors


@pytest.mark.parametrize("max_tensors", [1, 3, 15])
@pytest.mark.parametrize("small_first", [False, True])
def test_what_was_split_becomes_the_same_bytes(
    tmp_path: Path, max_tensors: int, small_first: bool
) -> None:
    source = write_gguf(tmp_path / "source.gguf", {"general.name": "Tiny"})
    [whole] = split_gguf(source, tmp_path / "whole", 0)
    parts = split_gguf(source, tmp_path / "t", max_tensors, small_first)

    joined = join(*parts)

    assert len(parts) == -(-16 // max_tensors) + small_first
    assert b"".join(joined.chunks()) == whole.read_bytes()
    assert joined.size_bytes == whole.stat().st_size


def test_parts_may_be_aligned_otherwise_than_the_whole(tmp_path: Path) -> None:
    odd = replace(EMBEDDING, data=bytes(range(96)))
    metadata = {"general.alignment": 64, "split.no": 0, "split.count": 2}
    first = GgufSpec({**tiny_model().metadata, **metadata}, [odd], alignment=64)
    paths = (
        first.write(tmp_path / "t-00001-of-00002.gguf"),
        part(tmp_path, 2, replace(NORM, data=bytes(range(32)))),
    )
    whole = tmp_path / "whole.gguf"

    whole.write_bytes(b"".join(join(*paths).chunks()))

    file, data = read_gguf(whole), whole.read_bytes()
    assert [tensor.offset % 64 for tensor in file.tensors] == [0, 0]
    assert [data[t.offset : t.offset + t.size_bytes] for t in file.tensors] == [
        bytes(range(96)),
        bytes(range(32)),
    ]
    assert not is_part(file)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("t-00001-of-00003.gguf", PartName("t", 1, 3)),
        ("Q4_0/t-00002-of-00003.gguf", PartName("Q4_0/t", 2, 3)),
        ("t-00001-of-00001.gguf", None),
        ("t-1-of-3.gguf", None),
        ("t-00001-of-00003.safetensors", None),
        ("-00001-of-00003.gguf", None),
        ("t-0000\u0661-of-00003.gguf", None),
    ],
)
def test_the_name_of_a_part(name: str, expected: PartName | None) -> None:
    assert PartName.parse(name) == expected


def test_parts_are_grouped_in_their_order() -> None:
    names = [f"t-0000{number}-of-00003.gguf" for number in (2, 3, 1)]

    assert group_parts([*names, "u.gguf"]) == {"t.gguf": (names[2], names[0], names[1])}


@pytest.mark.parametrize(
    ("names", "error"),
    [
        (["t-00001-of-00003", "t-00003-of-00003"], r"t-00002-of-00003.gguf is missing"),
        (["t-00001-of-99999"], r"t-00002-of-99999.gguf is missing"),
        (["t-00001-of-00002", "u-00002-of-00002"], r"t-00002-of-00002.gguf is missing"),
        (["t-00001-of-00002", "t-00002-of-00002", "t"], "t.gguf is there as a whole and in parts"),
        (["t-00001-of-00002", "t-00003-of-00002"], r"t-00003-of-00002.gguf is numbered past"),
        (["t-00000-of-00002", "t-00001-of-00002"], r"t-00000-of-00002.gguf is numbered past"),
        (
            [
                f"t-0000{number}-of-0000{count}"
                for count in (2, 3)
                for number in range(1, count + 1)
            ],
            "t.gguf is split twice",
        ),
    ],
)
def test_names_that_make_no_whole(names: list[str], error: str) -> None:
    with pytest.raises(FormatError, match=error):
        group_parts(f"{name}.gguf" for name in names)


@pytest.mark.parametrize(
    ("number", "changes", "error"),
    [
        (2, {"split__count": 3}, "t-00002-of-00002.gguf says that it is part 2 of 3"),
        (2, {"split__no": 0}, "t-00002-of-00002.gguf says that it is part 1 of 2"),
        (1, {"split__no": 7}, "t-00001-of-00002.gguf says that it is part 8 of 2"),
        (1, {"split__count": "two"}, "t-00001-of-00002.gguf does not say which part"),
        (2, {"split__no": True}, "t-00002-of-00002.gguf does not say which part"),
        (2, {"general__architecture": "qwen2"}, "of different models: see general.architecture"),
        (2, {"split__tensors__count": 3}, "of different models: see split.tensors.count"),
    ],
)
def test_parts_that_lie(tmp_path: Path, number: int, changes: dict[str, Value], error: str) -> None:
    paths = [
        part(tmp_path, 1, EMBEDDING, **(changes if number == 1 else {})),
        part(tmp_path, 2, NORM, **(changes if number == 2 else {})),
    ]

    with pytest.raises(FormatError, match=error):
        join(*paths)


def test_a_file_that_is_no_part_by_its_header(tmp_path: Path) -> None:
    first = tiny_model().write(tmp_path / "t-00001-of-00002.gguf")

    with pytest.raises(FormatError, match="does not say which part of a split file it is"):
        join(first, part(tmp_path, 2, NORM))


def test_a_tensor_in_two_parts(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"output_norm.weight is both in t-00001.* and in t-"):
        join(part(tmp_path, 1, NORM), part(tmp_path, 2, NORM))


def test_tensors_that_were_promised(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="promises 2 tensors, its parts have 1"):
        join(part(tmp_path, 1, NORM), part(tmp_path, 2))


@pytest.mark.parametrize("alignment", [2**17, 2**62])
def test_a_small_file_does_not_become_a_huge_one(tmp_path: Path, alignment: int) -> None:
    first = part(tmp_path, 1, general__alignment=alignment)
    second = part(tmp_path, 2, EMBEDDING, NORM)

    with pytest.raises(FormatError, match=f"alignment of {alignment} is more than the 65536"):
        join(first, second)


def test_a_part_that_became_shorter(tmp_path: Path) -> None:
    first, second = part(tmp_path, 1, EMBEDDING), part(tmp_path, 2, NORM)
    whole = join(first, second)
    second.write_bytes(second.read_bytes()[:-1])

    with pytest.raises(FormatError, match="became shorter"):
        b"".join(whole.chunks())
