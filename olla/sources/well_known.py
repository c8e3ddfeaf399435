"""Well-known names, as Ollama's registry has them, and where hubs have the same models.

A table, nothing else. Only repositories that anyone may read; a name that is missing here is
still looked for in Ollama's registry. A tag is a size, then a variant, then a quantization, each
of which may be left out: `8b`, `8b-instruct-q8_0`, `q4_K_M`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from olla.names import DEFAULT_NAMESPACE, DEFAULT_TAG, ModelName
from olla.sources.choice import quantization_of


@dataclass(frozen=True, slots=True)
class Place:
    repository: str
    tag: str = DEFAULT_TAG


@dataclass(frozen=True, slots=True)
class Family:
    """`sizes`: size -> hub -> `org/repo`, with `:tag` where its default file is not the one.

    `size` is the one that `latest` means. `variants` are words a tag may have behind its size.
    """

    size: str
    variants: frozenset[str]
    sizes: Mapping[str, Mapping[str, str]]


def place_on(hub: str, name: ModelName) -> Place | None:
    """Where that hub has the model of that name; None if it has not, or we know of none."""
    family = WELL_KNOWN.get(name.model.lower())
    if family is None or name.namespace.lower() != DEFAULT_NAMESPACE:
        return None
    size, variants, quantization = _split(name.tag.lower())
    text = family.sizes.get(size or family.size, {}).get(hub, "")
    repository, _, tag = text.partition(":")
    if not repository or not set(variants) <= family.variants:
        return None
    if quantization and not repository.lower().endswith("-gguf"):
        return Place(repository) if quantization in _UNQUANTIZED else None
    return Place(repository, quantization or tag or DEFAULT_TAG)


def _split(tag: str) -> tuple[str, list[str], str]:
    """Size, variants and quantization of a tag; "" or empty where it has none."""
    if tag == DEFAULT_TAG:
        return "", [], ""
    words = tag.split("-")
    quantization = quantization_of(words[-1]).lower()
    words = words[:-1] if quantization else words
    size = words.pop(0) if words and _SIZE.fullmatch(words[0]) else ""
    return size, words, quantization


_SIZE = re.compile(r"\d+(\.\d+)?[bm](-a\d+b)?")
_UNQUANTIZED = frozenset({"f16", "bf16"})


def _family(
    size: str, variants: str, hf: Mapping[str, str], modelscope: Mapping[str, str]
) -> Family:
    places = {"hf": hf, "modelscope": modelscope}
    sizes = {
        key: {hub: table[key] for hub, table in places.items() if key in table}
        for key in (*hf, *modelscope)
    }
    return Family(size, frozenset(variants.split()), sizes)


_QWEN25_SMALL = {
    size: f"Qwen/Qwen2.5-{size.upper()}-Instruct-GGUF" for size in ("0.5b", "1.5b", "3b")
}
_QWEN25_LARGE = ("7b", "14b", "32b", "72b")
_QWEN3 = {
    **{
        size: f"Qwen/Qwen3-{size.upper()}-GGUF"
        for size in ("0.6b", "1.7b", "4b", "8b", "14b", "32b")
    },
    "30b": "Qwen/Qwen3-30B-A3B-GGUF",
}
_GEMMA3 = ("1b", "4b", "12b", "27b")
_R1_QWEN = ("1.5b", "7b", "14b", "32b")
_R1_LLAMA = ("70b",)

WELL_KNOWN: Mapping[str, Family] = {
    "llama3.1": _family(
        "8b",
        "instruct",
        {
            "8b": "bartowski/Meta-Llama-3.1-8B-Instruct-GGUF",
            "70b": "bartowski/Meta-Llama-3.1-70B-Instruct-GGUF",
        },
        {
            "8b": "LLM-Research/Meta-Llama-3.1-8B-Instruct",
            "70b": "LLM-Research/Meta-Llama-3.1-70B-Instruct",
        },
    ),
    "llama3.2": _family(
        "3b",
        "instruct",
        {size: f"bartowski/Llama-3.2-{size.upper()}-Instruct-GGUF" for size in ("1b", "3b")},
        {size: f"LLM-Research/Llama-3.2-{size.upper()}-Instruct" for size in ("1b", "3b")},
    ),
    "llama3.3": _family(
        "70b",
        "instruct",
        {"70b": "bartowski/Llama-3.3-70B-Instruct-GGUF"},
        {"70b": "LLM-Research/Llama-3.3-70B-Instruct"},
    ),
    "qwen2.5": _family(
        "7b",
        "instruct",
        {
            **_QWEN25_SMALL,
            **{s: f"bartowski/Qwen2.5-{s.upper()}-Instruct-GGUF" for s in _QWEN25_LARGE},
        },
        {
            **_QWEN25_SMALL,
            **{s: f"Qwen/Qwen2.5-{s.upper()}-Instruct" for s in _QWEN25_LARGE},
        },
    ),
    "qwen2.5-coder": _family(
        "7b",
        "instruct",
        {
            size: f"bartowski/Qwen2.5-Coder-{size.upper()}-Instruct-GGUF"
            for size in ("0.5b", "1.5b", "3b", "7b", "14b", "32b")
        },
        {
            size: f"Qwen/Qwen2.5-Coder-{size.upper()}-Instruct"
            for size in ("0.5b", "1.5b", "3b", "7b", "14b", "32b")
        },
    ),
    "qwen3": _family("8b", "", _QWEN3, _QWEN3),
    "qwq": _family("32b", "", {"32b": "Qwen/QwQ-32B-GGUF"}, {"32b": "Qwen/QwQ-32B-GGUF"}),
    "mistral": _family(
        "7b",
        "instruct v0.3",
        {"7b": "bartowski/Mistral-7B-Instruct-v0.3-GGUF"},
        {"7b": "LLM-Research/Mistral-7B-Instruct-v0.3"},
    ),
    "mistral-nemo": _family(
        "12b",
        "instruct 2407",
        {"12b": "bartowski/Mistral-Nemo-Instruct-2407-GGUF"},
        {},
    ),
    "gemma2": _family(
        "9b",
        "instruct",
        {size: f"bartowski/gemma-2-{size}-it-GGUF" for size in ("2b", "9b", "27b")},
        {size: f"LLM-Research/gemma-2-{size}-it" for size in ("2b", "9b", "27b")},
    ),
    "gemma3": _family(
        "4b",
        "it",
        {
            "270m": "unsloth/gemma-3-270m-it-GGUF",
            **{size: f"ggml-org/gemma-3-{size}-it-GGUF" for size in _GEMMA3},
        },
        {size: f"LLM-Research/gemma-3-{size}-it" for size in _GEMMA3},
    ),
    "phi3.5": _family(
        "3.8b",
        "mini instruct",
        {"3.8b": "bartowski/Phi-3.5-mini-instruct-GGUF"},
        {"3.8b": "LLM-Research/Phi-3.5-mini-instruct"},
    ),
    "phi4": _family("14b", "", {"14b": "bartowski/phi-4-GGUF"}, {"14b": "LLM-Research/phi-4"}),
    "deepseek-r1": _family(
        "8b",
        "",
        {
            **{s: f"bartowski/DeepSeek-R1-Distill-Qwen-{s.upper()}-GGUF" for s in _R1_QWEN},
            **{s: f"bartowski/DeepSeek-R1-Distill-Llama-{s.upper()}-GGUF" for s in _R1_LLAMA},
            "8b": "bartowski/deepseek-ai_DeepSeek-R1-0528-Qwen3-8B-GGUF",
        },
        {
            **{s: f"deepseek-ai/DeepSeek-R1-Distill-Qwen-{s.upper()}" for s in _R1_QWEN},
            **{s: f"deepseek-ai/DeepSeek-R1-Distill-Llama-{s.upper()}" for s in _R1_LLAMA},
            "8b": "deepseek-ai/DeepSeek-R1-0528-Qwen3-8B",
        },
    ),
    "smollm2": _family(
        "135m",
        "instruct",
        {
            "135m": "bartowski/SmolLM2-135M-Instruct-GGUF",
            "360m": "bartowski/SmolLM2-360M-Instruct-GGUF",
            "1.7b": "bartowski/SmolLM2-1.7B-Instruct-GGUF",
        },
        {},
    ),
    "tinyllama": _family("1.1b", "chat v1", {"1.1b": "TheBloke/TinyLlama-1.1B-Chat-v1.0-GGUF"}, {}),
    "nomic-embed-text": _family(
        "137m", "v1.5", {"137m": "nomic-ai/nomic-embed-text-v1.5-GGUF:F16"}, {}
    ),
    "mxbai-embed-large": _family("335m", "v1", {"335m": "mixedbread-ai/mxbai-embed-large-v1"}, {}),
    "all-minilm": _family(
        "22m",
        "",
        {
            "22m": "sentence-transformers/all-MiniLM-L6-v2",
            "33m": "sentence-transformers/all-MiniLM-L12-v2",
        },
        {},
    ),
}
"""Model, in lower case, of names without host and namespace."""
