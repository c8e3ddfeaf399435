"""A model card: the README.md that hubs show of a repository, its metadata in front."""

from __future__ import annotations

from collections.abc import Iterator

from olla.names import ModelName
from olla.registry.capabilities import Capability
from olla.registry.model import Model
from olla.registry.weights import GGUF_NAME

CARD_NAME = "README.md"

_LICENSES = (
    ("apache-2.0", ("Apache License", "Version 2.0")),
    ("mit", ("Permission is hereby granted, free of charge",)),
    ("llama3.2", ("LLAMA 3.2 COMMUNITY LICENSE",)),
    ("llama3.1", ("LLAMA 3.1 COMMUNITY LICENSE",)),
    ("gemma", ("Gemma Terms of Use",)),
)


def model_card(model: Model, name: ModelName, base: str) -> str:
    """
    Args:
        base: the repository of the model that this one was made from, "" for none known.
    """
    metadata = "\n".join(_metadata(model, base))
    tag = "" if name.tag == "latest" else f":{name.tag}"
    place = f"{name.host}/{name.namespace}/{name.model}{tag}"
    return (
        f"---\n{metadata}\n---\n\n# {name.model}\n\n{_sentence(model, base)}\n\n"
        f"```sh\nolla run {place}\n```\n"
    )


def _metadata(model: Model, base: str) -> Iterator[str]:
    """Hugging Face's keys (its docs, "Model cards"); ModelScope reads the same."""
    if license_id := _license(model):
        yield f"license: {license_id}"
    if base:
        yield f"base_model: {base}"
    if base and model.adapters:
        yield "base_model_relation: adapter"
    elif base and GGUF_NAME in model.files:
        yield "base_model_relation: quantized"
    if Capability.COMPLETION in model.capabilities:
        yield "pipeline_tag: text-generation"
    if model.adapters:
        yield "library_name: peft"
        yield "tags:\n- lora"
    elif GGUF_NAME in model.files:
        yield "tags:\n- gguf"
    else:
        yield "library_name: transformers"


def _sentence(model: Model, base: str) -> str:
    if model.adapters:
        return f"A LoRA adapter for [{base}](https://huggingface.co/{base}), in peft's files."
    return f"A {model.architecture} model in {model.quantization_level}."


def _license(model: Model) -> str:
    if not model.licenses:
        return ""
    text = model.licenses[0]
    known = (name for name, marks in _LICENSES if all(mark in text for mark in marks))
    return next(known, "other")
