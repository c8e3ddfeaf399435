"""Inference over a fake runner, with models that exist in memory only."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from olla.errors import ModelNotFound
from olla.inference.service import Inference
from olla.messages import Message
from olla.names import ModelName
from olla.options import Options
from olla.registry.manifest import ModelConfig
from olla.registry.model import Capability
from olla.requests import ChatChunk
from olla.runner.pool import RunnerPool
from olla.settings import Settings
from tests.fakes import FakeSpawn

SETTINGS = Settings(home=Path("/nowhere"), models=Path("/nowhere"))
TEMPLATE = "{% for m in messages %}[{{ m.role }}] {{ m.content }} {% endfor %}"


@dataclass
class FakeHeader:
    numbers: dict[str, int] = field(default_factory=dict)
    architecture: str = "llama"

    def number(self, key: str) -> int:
        return self.numbers.get(key, 0)


@dataclass(frozen=True)
class FakeModel:
    """What inference reads of a Model."""

    name: ModelName = field(default_factory=lambda: ModelName.parse("m"))
    weights_key: str = "w"
    files: dict[str, Path] = field(default_factory=lambda: {"model.gguf": Path("/blobs/w")})
    adapters: tuple[dict[str, Path], ...] = ()
    adapter_scales: tuple[float, ...] = ()
    draft: Path | None = None
    quantization_level: str = "F16"
    prompt_template: str = TEMPLATE
    system: str = ""
    messages: tuple[Message, ...] = ()
    options: Options = field(default_factory=Options)
    capabilities: tuple[Capability, ...] = (Capability.COMPLETION,)
    architecture: str = "llama"
    context_length: int = 8192
    header: FakeHeader = field(default_factory=FakeHeader)
    draft_header: FakeHeader = field(default_factory=FakeHeader)
    parameter_count: int = 1000
    size_bytes: int = 500
    config: ModelConfig = field(default_factory=ModelConfig)

    @property
    def scaled_adapters(self) -> Iterator[tuple[dict[str, Path], float]]:
        return zip(self.adapters, self.adapter_scales, strict=True)

    def check_files(self) -> None:
        """Its files are nowhere, and nobody opens them."""


class FakeStore:
    def __init__(self) -> None:
        self.model = FakeModel()

    def resolve(self, name: ModelName) -> FakeModel:
        if name.model.lower() != self.model.name.model:
            raise ModelNotFound(name.short)
        return self.model


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


@pytest.fixture
def spawn() -> FakeSpawn:
    return FakeSpawn()


@pytest.fixture
async def pool(spawn: FakeSpawn) -> AsyncIterator[RunnerPool]:
    pool = RunnerPool(SETTINGS, spawn)
    yield pool
    await pool.close()


@pytest.fixture
def inference(store: FakeStore, pool: RunnerPool) -> Inference:
    return Inference(store, pool, SETTINGS)  # type: ignore[arg-type]


async def collect(chunks: object) -> list[ChatChunk]:
    return [chunk async for chunk in chunks]  # type: ignore[attr-defined]
