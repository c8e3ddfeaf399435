"""What is said of an adapter whose config names another base."""

from __future__ import annotations

import pytest

from olla.errors import BadInput
from olla.modelfile.provenance import check_base
from olla.registry.manifest import ModelConfig

ONE, OTHER = "1" * 40, "2" * 40
LLAMA = ModelConfig(repository="hf.co/meta-llama/Llama-3.2-1B-Instruct", revision=ONE)


def adapter(name: object, revision: object = None) -> dict[str, object]:
    return {"base_model_name_or_path": name, "revision": revision}


@pytest.mark.parametrize(
    ("name", "revision"),
    [
        ("meta-llama/Llama-3.2-1B-Instruct", ONE),
        ("meta-llama/llama-3.2-1b-instruct", None),
        ("meta-llama/Llama-3.2-1B-Instruct", "main"),
        ("meta-llama/Llama-3.2-1B-Instruct", ONE[:7]),
        ("unsloth/Llama-3.2-1B-Instruct", OTHER),
        ("unsloth/Llama-3.2-1B-Instruct-bnb-4bit", OTHER),
        ("unsloth/llama-3.2-1b-instruct-unsloth-bnb-4bit", None),
        ("somebody/Llama-3.2-1B-Instruct-AWQ", None),
        ("somebody/Llama-3.2-1B-Instruct-GPTQ-Int4", None),
        ("./base", None),
        ("/home/me/models/other", None),
        ("~/other", None),
        ("base", None),
        (None, None),
        (7, None),
    ],
)
def test_nothing_is_said_of_what_may_be_the_same(name: object, revision: object) -> None:
    assert check_base(adapter(name, revision), LLAMA) == ""


@pytest.mark.parametrize(
    ("trained_on", "repository"),
    [
        ("Qwen/Qwen3-8B", "hf.co/bartowski/Qwen_Qwen3-8B-GGUF"),
        ("Qwen/Qwen2.5-7B", "hf.co/mradermacher/Qwen2.5-7B-i1-GGUF"),
        ("meta-llama/Llama-3.1-8B", "hf.co/bartowski/Meta-Llama-3.1-8B-Q4_K_M-GGUF"),
        ("Qwen/Qwen3-8B", "modelscope.cn/Qwen/Qwen3-8B"),
    ],
)
def test_nothing_is_said_of_a_mirror(trained_on: str, repository: str) -> None:
    base = ModelConfig(repository=repository, revision=ONE)

    assert check_base(adapter(trained_on, OTHER), base) == ""


def test_nothing_is_said_of_a_base_from_no_hub() -> None:
    assert check_base(adapter("a/b"), ModelConfig()) == ""


@pytest.mark.parametrize(
    ("name", "revision", "text"),
    [
        (
            "meta-llama/Llama-3.2-1B",
            None,
            "trained on meta-llama/Llama-3.2-1B, but the base is hf.co/meta-llama/Llama-3.2-1B-I",
        ),
        ("meta-llama/Llama-3.2-3B-Instruct-bnb-4bit", None, "but the base is hf.co/meta-llama/"),
        ("meta-llama/Llama-3.2-1B-Instruct", OTHER, f"was trained on revision {OTHER} of meta-"),
    ],
)
def test_another_model_or_commit_is_refused(name: str, revision: object, text: str) -> None:
    with pytest.raises(BadInput, match="olla create --force") as caught:
        check_base(adapter(name, revision), LLAMA)

    assert text in str(caught.value)
    warning = check_base(adapter(name, revision), LLAMA, force=True)
    assert warning.startswith("warning: the adapter was trained on")
    assert text in warning


@pytest.mark.parametrize(
    ("name", "revision", "text"),
    [
        ("NousResearch/Llama-3.2-1B-Instruct", None, "unless these are one model"),
        ("meta-llama/Llama-3.2-1B-Instruct", "v2", "was trained on revision v2 of meta-llama/"),
    ],
)
def test_what_may_be_another_is_told(name: str, revision: object, text: str) -> None:
    warning = check_base(adapter(name, revision), LLAMA)

    assert warning.startswith("warning: the adapter was trained on")
    assert text in warning
