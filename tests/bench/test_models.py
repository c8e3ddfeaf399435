"""The model files of the bench are files that olla runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from olla.cli.figures import prompt_of
from olla.engine.engine import Engine
from olla.engine.loading import load_model
from olla.engine.weights.gguf import GgufCheckpoint
from tests.bench.engine_alone import generate
from tests.bench.models import LLAMA_1B, Shape, write_random

SMALL = Shape(64, 2, 4, 2, 16, 128, 49300)

pytestmark = pytest.mark.weights


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("random") / "model.gguf"
    write_random(path, SMALL)
    return path


def test_a_random_model_runs_with_a_real_tokenizer(file: Path) -> None:
    model = load_model({"model.gguf": str(file)}, "auto", "cpu", 1, lambda done, total: None)

    prompts = [prompt_of(16, 1), prompt_of(16, 2)]
    replies = generate(Engine(model, 512), prompts, num_tokens=4)

    assert [reply["num_tokens"] for reply in replies] == [4, 4]
    assert all(reply["num_prompt_tokens"] == pytest.approx(16, abs=4) for reply in replies)
    assert model.network.config.vocab_size == SMALL.vocab_size


def test_its_weights_have_a_deviation_of_two_hundredths(file: Path) -> None:
    checkpoint, name = GgufCheckpoint(file), "model.embed_tokens.weight"
    values = torch.empty(checkpoint.shape(name) or ())

    checkpoint.read(name, values)

    assert values.std() == pytest.approx(0.02, rel=0.02)
    assert abs(values.mean()) < 1e-3


def test_the_large_shape_has_the_parameters_of_llama_3_2_1b() -> None:
    count = sum(rows * columns for _, rows, columns in LLAMA_1B.matrices())

    assert count + 33 * 2048 == 1_235_814_400
