"""Which files of a repository are the model: from names as hubs have them."""

from __future__ import annotations

import pytest

from olla.errors import BadInput, FormatError, SourceError
from olla.sources.choice import (
    PREFERRED_QUANTIZATIONS,
    Choice,
    Kind,
    choose_files,
    labels,
    quantization_of,
)
from olla.sources.repository import RemoteFile


def remote(*names: str) -> tuple[RemoteFile, ...]:
    return tuple(
        RemoteFile(name, 10 + index, f"http://h/{name}") for index, name in enumerate(names)
    )


def chosen(*names: str, tag: str = "latest") -> list[str]:
    choice = choose_files(remote(*names), tag)
    assert choice is not None
    return [file.name for file in choice.files]


def test_only_what_a_loader_needs_of_a_repository() -> None:
    needed = [
        *("model.safetensors", "config.json", "generation_config.json", "tokenizer.json"),
        *("tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt"),
        *("tokenizer.model", "chat_template.jinja", "preprocessor_config.json"),
    ]
    rest = (
        *("README.md", ".gitattributes", "pytorch_model.bin", "tf_model.h5", "onnx/model.onnx"),
        *("flax_model.msgpack", "original/params.json", "original/tokenizer.model", "model.gguf"),
        *("trainer_state.json", "training_args.bin", "optimizer.pt", "modeling_tiny.py"),
        *("checkpoint-10/model.safetensors", "checkpoint-10/config.json"),
    )

    assert chosen(*needed, *rest) == needed


def test_the_modules_of_sentence_transformers_are_needed() -> None:
    names = [
        *("model.safetensors", "2_Dense/model.safetensors", "config.json", "modules.json"),
        *("sentence_bert_config.json", "config_sentence_transformers.json"),
        *("1_Pooling/config.json", "2_Dense/config.json"),
    ]

    assert sorted(chosen(*names)) == sorted(names)


def test_shards_of_the_index_win_over_a_second_copy_in_one_file() -> None:
    index = "model.safetensors.index.json"
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]

    assert chosen("consolidated.safetensors", "model.safetensors", *shards, index) == [
        *shards,
        index,
    ]
    assert chosen("model.safetensors", *shards) == ["model.safetensors"]


def test_licenses_are_texts_beside_the_files() -> None:
    choice = choose_files(remote("model.safetensors", "LICENSE", "Notice.txt", "USE_POLICY.md"))

    assert choice is not None
    assert [file.name for file in choice.licenses] == ["LICENSE", "Notice.txt", "USE_POLICY.md"]


@pytest.mark.parametrize(
    "weights",
    [
        ["adapter_model.safetensors"],
        ["adapter_model-00001-of-00002.safetensors", "adapter_model-00002-of-00002.safetensors"],
    ],
)
def test_an_adapter_is_its_files_and_the_tokenizer_s_beside_them(weights: list[str]) -> None:
    wanted = ["adapter_config.json", *weights, "tokenizer.json", "chat_template.jinja"]
    others = ("README.md", "adapter_model.safetensors.index.json", "checkpoint-1/tokenizer.json")

    choice = choose_files(remote(*others, *wanted))

    assert isinstance(choice, Choice)
    assert (choice.kind, [file.name for file in choice.files]) == (Kind.ADAPTER, wanted)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Tiny-Q4_K_M.gguf", "Q4_K_M"),
        ("tiny.q4_0.gguf", "Q4_0"),
        ("Qwen3-0.6B-UD-Q4_K_XL.gguf", "UD-Q4_K_XL"),
        ("tiny-iq3_xxs.gguf", "IQ3_XXS"),
        ("tiny-fp16.gguf", "F16"),
        ("tiny.f32.gguf", "F32"),
        ("Q8_0/tiny-Q8_0-00001-of-00002.gguf", "Q8_0"),
        ("BF16/tiny-00001-of-00002.gguf", "BF16"),
        ("gpt-oss-20b-mxfp4.gguf", "MXFP4"),
        ("Qwen3-8B.gguf", ""),
        ("model.gguf", ""),
    ],
)
def test_the_quantization_stands_in_the_name(name: str, expected: str) -> None:
    assert quantization_of(name) == expected


@pytest.mark.parametrize("tag", ["Q8_0", "q8_0", "Tiny.Q8_0.gguf", "tiny.q8_0"])
def test_a_tag_names_a_file_whatever_its_case(tag: str) -> None:
    assert chosen("Tiny.Q4_0.gguf", "Tiny.Q8_0.gguf", tag=tag) == ["Tiny.Q8_0.gguf"]


@pytest.mark.parametrize("index", range(len(PREFERRED_QUANTIZATIONS)))
def test_without_a_tag_the_preferred_of_what_is_there(index: int) -> None:
    names = [f"t-{label}.gguf" for label in ("Q2_K", *reversed(PREFERRED_QUANTIZATIONS[index:]))]

    assert chosen(*names) == [f"t-{PREFERRED_QUANTIZATIONS[index]}.gguf"]


def test_without_a_preferred_one_the_smallest() -> None:
    assert chosen("a-Q2_K.gguf", "b-IQ1_S.gguf") == ["a-Q2_K.gguf"]


def test_eyes_and_statistics_are_no_models() -> None:
    assert chosen("mmproj-t-f16.gguf", "t.imatrix.gguf", "t-Q2_K.gguf") == ["t-Q2_K.gguf"]


@pytest.mark.parametrize("folder", ["", "Q4_K_M/", "Q4_K_M/deep/"])
@pytest.mark.parametrize("tag", ["latest", "q4_k_m", "T-Q4_K_M", "t-Q4_K_M-00002-of-00003.gguf"])
def test_the_parts_of_a_split_file_come_together(folder: str, tag: str) -> None:
    parts = [f"{folder}t-Q4_K_M-0000{number}-of-00003.gguf" for number in (1, 2, 3)]

    assert chosen(*reversed(parts), "t-Q8_0.gguf", tag=tag) == parts


@pytest.mark.parametrize("tag", ["latest", "q4_k_m", "t-Q4_K_M"])
def test_a_whole_file_wins_over_parts(tag: str) -> None:
    parts = [f"t-Q4_K_M-0000{number}-of-00002.gguf" for number in (1, 2)]

    assert chosen(*parts, "t-Q4_K_M.gguf", tag=tag) == ["t-Q4_K_M.gguf"]


def test_parts_of_two_files_of_one_quantization_do_not_mix() -> None:
    names = [
        f"{folder}/t-Q4_0-0000{number}-of-0000{count}.gguf"
        for folder, count in (("a", 2), ("a", 3), ("b", 2))
        for number in range(1, count + 1)
    ]

    assert chosen(*names) == names[:2]


def test_of_two_files_of_one_name_the_first() -> None:
    assert chosen("a/t.gguf", "b/t.gguf", tag="t") == ["a/t.gguf"]


@pytest.mark.parametrize("tag", ["latest", "q4_0"])
def test_a_split_file_that_lacks_a_part(tag: str) -> None:
    with pytest.raises(FormatError, match=r"t-Q4_0-00002-of-00003.gguf is missing"):
        chosen("t-Q4_0-00001-of-00003.gguf", "t-Q4_0-00003-of-00003.gguf", tag=tag)


def test_safetensors_win_unless_the_tag_names_a_gguf_file() -> None:
    names = ("model.safetensors", "t-Q4_0.gguf")

    assert chosen(*names) == ["model.safetensors"]
    assert chosen(*names, tag="q4_0") == ["t-Q4_0.gguf"]


@pytest.mark.parametrize("names", [("model.safetensors",), ("t-Q4_0.gguf",)])
def test_a_tag_that_names_no_file_may_be_a_revision(names: tuple[str, ...]) -> None:
    assert choose_files(remote(*names), "v1.0") is None


def test_pickles_are_refused_by_name_with_the_way_out() -> None:
    with pytest.raises(BadInput, match=r"pytorch_model.bin holds pickled objects.*safetensors"):
        choose_files(remote("config.json", "pytorch_model.bin"))


@pytest.mark.parametrize("names", [(), ("README.md",), ("onnx/model.onnx", "config.json")])
def test_a_repository_without_a_model(names: tuple[str, ...]) -> None:
    with pytest.raises(SourceError, match="no safetensors or GGUF files"):
        choose_files(remote(*names))


def test_labels_are_what_a_tag_may_be() -> None:
    assert labels(remote("t-q8_0.gguf", "t-Q4_0.gguf", "README.md")) == "Q4_0, Q8_0"
    assert labels(remote("README.md")) == ""
