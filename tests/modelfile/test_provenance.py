"""What is said of an adapter whose config names another base."""

from __future__ import annotations

import pytest

from olla.modelfile.provenance import base_warning
from olla.registry.manifest import ModelConfig

ONE, OTHER = "1" * 40, "2" * 40
LLAMA = ModelConfig(repository="hf.co/meta-llama/Llama-3.2-1B-Instruct", revision=ONE)


@pytest.mark.parametrize(
    ("name", "revision"),
    [
        ("meta-llama/Llama-3.2-1B-Instruct", ONE),
        ("meta-llama/llama-3.2-1b-instruct", None),
        ("meta-llama/Llama-3.2-1B-Instruct", "main"),
        ("unsloth/Llama-3.2-1B-Instruct-bnb-4bit", OTHER),
        ("unsloth/llama-3.2-1b-instruct-unsloth-bnb-4bit", None),
        ("./base", None),
        ("/home/me/models/other", None),
        ("~/other", None),
        ("base", None),
        (None, None),
        (7, None),
    ],
)
def test_nothing_is_said_of_what_may_be_the_same(name: object, revision: object) -> None:
    adapter = {"base_model_name_or_path": name, "revision": revision}

    assert base_warning(adapter, LLAMA) == ""


def test_nothing_is_said_of_a_base_from_no_hub() -> None:
    assert base_warning({"base_model_name_or_path": "a/b"}, ModelConfig()) == ""


@pytest.mark.parametrize(
    ("name", "revision", "text"),
    [
        (
            "meta-llama/Llama-3.2-1B",
            None,
            "trained on meta-llama/Llama-3.2-1B, but the base is",
        ),
        ("meta-llama/Llama-3.2-1B-Instruct", OTHER, f"was trained on revision {OTHER} of meta-"),
    ],
)
def test_another_model_or_revision_is_named(name: str, revision: object, text: str) -> None:
    warning = base_warning({"base_model_name_or_path": name, "revision": revision}, LLAMA)

    assert warning.startswith("warning: the adapter ")
    assert text in warning
