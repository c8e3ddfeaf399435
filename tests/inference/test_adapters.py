"""The adapters of one request, by the names of models."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from olla.errors import BadInput, ModelNotFound
from olla.inference.service import Inference
from olla.messages import Message
from olla.names import ModelName
from olla.requests import AdapterChoice, ChatRequest
from olla.runner.pool import RunnerPool
from olla.runner.protocol import Adapter
from tests.fakes import FakeSpawn
from tests.inference.conftest import SETTINGS, FakeModel, collect


def model(name: str, weights_key: str, *scales: float) -> FakeModel:
    files = tuple({"adapter.gguf": Path(f"/blobs/{name}{n}")} for n in range(len(scales)))
    parsed = ModelName.parse(name)
    return FakeModel(name=parsed, weights_key=weights_key, adapters=files, adapter_scales=scales)


def lora(name: str, scale: float) -> Adapter:
    return Adapter({"adapter.gguf": f"/blobs/{name}"}, scale)


@dataclass
class ManyModels:
    models: dict[str, FakeModel] = field(default_factory=dict)

    def resolve(self, name: ModelName) -> FakeModel:
        if name.model not in self.models:
            raise ModelNotFound(name.short)
        return self.models[name.model]


@pytest.fixture
def inference(pool: RunnerPool) -> Inference:
    models = [model("m", "w"), model("one", "w", 0.5), model("two", "w", 1, 2), model("x", "v", 1)]
    store = ManyModels({found.name.model: found for found in models})
    return Inference(store, pool, SETTINGS)  # type: ignore[arg-type]


def chat(name: str, *choices: AdapterChoice) -> ChatRequest:
    return ChatRequest(model=name, messages=(Message("user", "Hi"),), adapters=choices)


@pytest.mark.parametrize(
    ("request_", "sent"),
    [
        (replace(chat("one"), adapters=None), [lora("one0", 0.5)]),
        (chat("one"), []),
        (chat("m", AdapterChoice("one", 4)), [lora("one0", 2)]),
        (chat("one", AdapterChoice("two"), AdapterChoice("one", 0)),
         [lora("two0", 1), lora("two1", 2), lora("one0", 0)]),
    ],
)  # fmt: skip
async def test_what_a_request_names_takes_the_place_of_the_model_s_own(
    inference: Inference, spawn: FakeSpawn, request_: ChatRequest, sent: list[Adapter]
) -> None:
    await collect(inference.chat(request_))

    assert spawn.runners[0].requests[0].adapters == sent


@pytest.mark.parametrize(
    ("name", "error", "text"),
    [
        ("none", ModelNotFound, "model 'none' not found"),
        ("m", BadInput, '"m" is not an adapter: create one with ADAPTER first'),
        ("x", BadInput,
         'adapter "x" is over another base than "m:latest": create it FROM that model'),
    ],
)  # fmt: skip
async def test_names_that_are_no_adapters_of_the_base(
    inference: Inference, name: str, error: type[Exception], text: str
) -> None:
    with pytest.raises(error) as caught:
        await collect(inference.chat(chat("m", AdapterChoice(name))))

    assert str(caught.value) == text
