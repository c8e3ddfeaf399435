"""The embedded default from the installed package."""

from __future__ import annotations

import pytest

from olla.names import ModelName
from olla.registry.store import ModelStore
from olla.requests import Progress
from olla.sources.choose import Sources
from olla.sources.ollama import Registry
from olla.sources.pull import plan_pull, pull


@pytest.mark.weights
async def test_the_embedded_default(store: ModelStore, registry: Registry) -> None:
    name = ModelName.parse("smollm2:135m")
    source = Sources(registry).source_for(name)
    before = [step async for step in plan_pull(store, source)]

    steps = [step async for step in pull(name, store, source)]

    assert steps[-1] == Progress("success")
    model = store.resolve(name)
    assert (model.architecture, model.parameter_size) == ("llama", "134.52M")
    assert (model.quantization_level, model.context_length) == ("Q4_1", 8192)
    assert "<|im_start|>" in model.chat_template
    assert model.options.stop == ("<|im_start|>", "<|im_end|>")
    assert "Apache License" in model.licenses[0]
    after = [step async for step in plan_pull(store, source)]
    assert {step.status.rpartition(" ")[0] for step in before[1:-1]} == {"would pull"}
    assert {step.status.rpartition(" ")[0] for step in after[1:-1]} == {"have"}
