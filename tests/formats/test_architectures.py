"""What a repository's files say that its model is for."""

from __future__ import annotations

from typing import Any

import pytest

from olla.formats.architectures import Purpose, is_generator, purpose_of


@pytest.mark.parametrize(
    ("names", "files", "purpose"),
    [
        (["LlamaForCausalLM"], [], Purpose.GENERATE),
        (["T5ForConditionalGeneration"], [], Purpose.GENERATE),
        (["GPT2LMHeadModel"], [], Purpose.GENERATE),
        (None, [], Purpose.GENERATE),
        ("LlamaForCausalLM", [], Purpose.GENERATE),
        (["BertModel"], [], Purpose.EMBED),
        (["ModernBertForMaskedLM"], [], Purpose.EMBED),
        (["Qwen3ForCausalLM"], ["modules.json"], Purpose.EMBED),
        (["BertForSequenceClassification"], [], Purpose.RERANK),
        (["BertForSequenceClassification"], ["modules.json"], Purpose.RERANK),
    ],
)
def test_classes_and_files_tell_the_purpose(names: Any, files: list[str], purpose: Purpose) -> None:
    assert purpose_of({"architectures": names}, files) is purpose


def test_a_network_that_predicts_tokens_is_one_whatever_it_is_used_for() -> None:
    assert is_generator({"architectures": ["Qwen3ForCausalLM"]})
    assert not is_generator({"architectures": ["BertModel"]})
