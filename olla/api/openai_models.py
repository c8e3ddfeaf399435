"""The stored models as OpenAI lists them (spec/openai-anthropic.md section 5)."""

from __future__ import annotations

from collections.abc import Iterable

from olla.api.ollama_replies import Json, ModelSummary
from olla.names import ModelName


def models_to_json(models: Iterable[ModelSummary]) -> Json:
    """In their order, which is Ollama's list's."""
    return {"object": "list", "data": [model_to_json(model, model.name) for model in models]}


def model_to_json(model: ModelSummary, name: str) -> Json:
    """`name`: as whoever asked for this one model spelt it."""
    return {
        "id": name,
        "object": "model",
        "created": int(model.modified_at.timestamp()),
        "owned_by": ModelName.parse(model.name).namespace,
    }
