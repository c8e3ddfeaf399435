"""Which names have a source, and the embedded default from the installed package."""

from __future__ import annotations

import pytest

from olla.errors import SourceNotFound
from olla.names import ModelName
from olla.registry.store import ModelStore
from olla.requests import Progress
from olla.sources.base import source_for
from olla.sources.package import PackageSource
from olla.sources.pull import pull


@pytest.mark.parametrize("text", ["smollm2", "smollm2:latest", "smollm2:135m", "SmolLM2:135M"])
def test_well_known_names(text: str) -> None:
    assert isinstance(source_for(ModelName.parse(text)), PackageSource)


@pytest.mark.parametrize(
    "text", ["smollm3", "smollm2:360m", "me/smollm2:135m", "example.com/library/smollm2:135m"]
)
async def test_other_names_have_no_source(text: str, store: ModelStore) -> None:
    steps = pull(ModelName.parse(text), store)
    assert await anext(steps) == Progress("pulling manifest")

    with pytest.raises(SourceNotFound) as caught:
        await anext(steps)

    assert str(caught.value) == "pull model manifest: file does not exist"


@pytest.mark.weights
async def test_the_embedded_default(store: ModelStore) -> None:
    name = ModelName.parse("smollm2:135m")

    steps = [step async for step in pull(name, store)]

    assert steps[-1] == Progress("success")
    model = store.resolve(name)
    assert (model.architecture, model.parameter_size) == ("llama", "134.52M")
    assert (model.quantization_level, model.context_length) == ("Q4_1", 8192)
    assert "<|im_start|>" in model.chat_template
    assert model.options.stop == ("<|im_start|>", "<|im_end|>")
    assert "Apache License" in model.licenses[0]
