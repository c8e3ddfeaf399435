"""Stored models as OpenAI lists them."""

from __future__ import annotations

from datetime import UTC, datetime

from olla.api.ollama_replies import ModelSummary
from olla.api.openai_models import model_to_json, models_to_json


def _model(name: str) -> ModelSummary:
    modified_at = datetime(2026, 1, 2, tzinfo=UTC)
    return ModelSummary(name, "00", modified_at, 1, "gguf", "llama", (), "", "", 1, 1, ())


def test_an_empty_store_is_an_empty_list() -> None:
    assert models_to_json([]) == {"object": "list", "data": []}


def test_models_are_listed_with_their_owners() -> None:
    reply = models_to_json([_model("b:latest"), _model("me/a:x"), _model("host/you/c:latest")])

    assert [(item["id"], item["owned_by"]) for item in reply["data"]] == [
        ("b:latest", "library"),
        ("me/a:x", "me"),
        ("host/you/c:latest", "you"),
    ]


def test_a_model_has_the_name_that_it_was_asked_for_by() -> None:
    assert model_to_json(_model("b:latest"), "B") == {
        "id": "B",
        "object": "model",
        "created": 1767312000,
        "owned_by": "library",
    }
