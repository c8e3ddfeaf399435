"""What a model is for, told from its repository's files: the daemon and its runners agree on it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any

GGUF_ENCODERS = frozenset({"bert"})
"""GGUF architectures that read a text whole and write none, as far as olla runs them."""

SEEING = frozenset({"gemma3", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe"})
"""Types of models that olla shows images to; each has a line in engine/sights.py."""

_PROCESSORS = ("preprocessor_config.json", "processor_config.json")
_GENERATORS = ("ForCausalLM", "ForConditionalGeneration", "LMHeadModel")
_CLASSIFIER = "ForSequenceClassification"
_MODULES = "modules.json"  # sentence-transformers' list of what makes a vector


class Purpose(StrEnum):
    GENERATE = "generate"
    EMBED = "embed"
    RERANK = "rerank"


def architectures(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The classes that a config.json names."""
    names = config.get("architectures")
    return tuple(str(name) for name in names) if isinstance(names, list) else ()


def is_generator(config: Mapping[str, Any]) -> bool:
    """Whether the network predicts tokens; one whose class nobody knows is taken for such."""
    names = architectures(config)
    return not names or any(name.endswith(_GENERATORS) for name in names)


def is_classifier(config: Mapping[str, Any]) -> bool:
    return any(name.endswith(_CLASSIFIER) for name in architectures(config))


def purpose_of(config: Mapping[str, Any], file_names: Iterable[str]) -> Purpose:
    """A network that predicts tokens may have been trained on to make vectors of texts."""
    if is_classifier(config):
        return Purpose.RERANK
    embeds = not is_generator(config) or _MODULES in file_names
    return Purpose.EMBED if embeds else Purpose.GENERATE


def is_seeing(config: Mapping[str, Any]) -> bool:
    """Whether the network has a part that looks at images, of a kind that olla runs."""
    return config.get("model_type") in SEEING and "vision_config" in config


def can_see(config: Mapping[str, Any], file_names: Iterable[str]) -> bool:
    """Whether images can be put to it, for which it needs to say how it takes them."""
    return is_seeing(config) and any(name in _PROCESSORS for name in file_names)
