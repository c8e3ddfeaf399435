"""Well-known names and their tags: where each hub has the model."""

from __future__ import annotations

import pytest

from olla.names import ModelName
from olla.sources.well_known import WELL_KNOWN, Place, place_on


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("llama3.2", Place("bartowski/Llama-3.2-3B-Instruct-GGUF")),
        ("Llama3.2:1B", Place("bartowski/Llama-3.2-1B-Instruct-GGUF")),
        ("llama3.2:1b-instruct-q8_0", Place("bartowski/Llama-3.2-1B-Instruct-GGUF", "q8_0")),
        ("llama3.2:q4_K_M", Place("bartowski/Llama-3.2-3B-Instruct-GGUF", "q4_k_m")),
        ("llama3.2:1b-instruct-fp16", Place("bartowski/Llama-3.2-1B-Instruct-GGUF", "f16")),
        ("nomic-embed-text", Place("nomic-ai/nomic-embed-text-v1.5-GGUF", "F16")),
        ("nomic-embed-text:v1.5", Place("nomic-ai/nomic-embed-text-v1.5-GGUF", "F16")),
        ("mistral:7b-instruct-v0.3", Place("bartowski/Mistral-7B-Instruct-v0.3-GGUF")),
        ("all-minilm", Place("sentence-transformers/all-MiniLM-L6-v2")),
        ("all-minilm:22m-fp16", Place("sentence-transformers/all-MiniLM-L6-v2")),
    ],
)
def test_where_hugging_face_has_it(text: str, expected: Place) -> None:
    assert place_on("hf", ModelName.parse(text)) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("llama3.2:70b", "llama3.2:1b-text", "llama3.2:1b-text-q8_0", "llama3.2:v1"),
        *("all-minilm:22m-q4_0", "nobody", "me/llama3.2"),
    ],
)
def test_what_the_table_does_not_have(text: str) -> None:
    assert place_on("hf", ModelName.parse(text)) is None


def test_modelscope_may_have_other_repositories() -> None:
    name = ModelName.parse("llama3.2:1b")

    assert place_on("modelscope", name) == Place("LLM-Research/Llama-3.2-1B-Instruct")
    assert place_on("modelscope", ModelName.parse("tinyllama")) is None


@pytest.mark.parametrize("model", WELL_KNOWN)
def test_every_entry_can_be_asked_for(model: str) -> None:
    family = WELL_KNOWN[model]

    assert family.size in family.sizes
    for size, places in family.sizes.items():
        for hub in places:
            place = place_on(hub, ModelName.parse(f"{model}:{size}"))
            assert place is not None
            assert place.repository.count("/") == 1
