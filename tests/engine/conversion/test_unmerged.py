"""A base and its adapters, exported side by side, are in peft what they are here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import transformers

from olla.engine.engine import Engine
from olla.engine.loading import load_model
from olla.errors import BadInput
from olla.runner.conversion import Conversion
from olla.runner.converter import run
from olla.runner.protocol import Adapter
from tests.engine.test_adapters import assert_as_in_peft, generate_with, save_adapter
from tests.tiny_model import files_of, save_tiny_model

TABLES = ["embed_tokens", "lm_head"]


@pytest.mark.parametrize(
    "kinds",
    [
        [({}, 1.0)],
        [({"alpha_pattern": {"v_proj": 32}}, 0.5)],
        [({"use_rslora": True}, -0.5)],
        [({"use_dora": True, "modules_to_save": ["lm_head"]}, 1.0)],
        [({"target_modules": ["q_proj", *TABLES]}, 1.0)],
        [({}, 0.5), ({"use_rslora": True}, 1.0), ({"target_modules": ["down_proj"]}, 2.0)],
    ],
)
def test_peft_loads_what_is_exported_and_computes_the_same(
    tmp_path: Path, kinds: list[tuple[dict[str, Any], float]]
) -> None:
    files = save_tiny_model(tmp_path)
    adapters = []
    for number, (settings, scale) in enumerate(kinds):
        folder = tmp_path / f"lora-{number}"
        save_adapter(tmp_path, folder, seed=number, **settings)
        adapters.append(Adapter(files_of(folder), scale))
    out = tmp_path / "out"

    job = Conversion(files, str(out), "hf", "", adapters=adapters)
    run(job, lambda done, total: None)

    engine = Engine(load_model(files, "float32", "cpu", 0, lambda done, total: None))
    (tokens,) = generate_with(engine, [adapters])
    assert_as_in_peft(engine, loaded(out, len(adapters)), tokens)


@pytest.mark.parametrize(
    ("family", "quantization", "scale", "text"),
    [
        ("llama", "", 0.5, "a scale of its own that is more than low rank"),
        ("gpt_neox", "nf4", 1.0, 'unsupported architecture "gpt_neox"'),
    ],
)
def test_what_is_refused_leaves_no_folder(
    tmp_path: Path, family: str, quantization: str, scale: float, text: str
) -> None:
    files = save_tiny_model(tmp_path, family)
    module = {"llama": "q_proj", "gpt_neox": "query_key_value"}[family]
    save_adapter(tmp_path, tmp_path / "lora", seed=1, target_modules=[module], use_dora=True)
    adapters = [Adapter(files_of(tmp_path / "lora"), scale)]
    job = Conversion(files, str(tmp_path / "out"), "hf", quantization, adapters)

    with pytest.raises(BadInput, match=text):
        run(job, lambda done, total: None)

    assert not (tmp_path / "out").exists()


def loaded(folder: Path, count: int) -> Any:
    base = transformers.AutoModelForCausalLM.from_pretrained(folder / "base")
    if count == 1:
        return peft.PeftModel.from_pretrained(base, folder).eval()
    names = [f"adapter-{number}" for number in range(count)]
    model = peft.PeftModel.from_pretrained(base, folder / names[0], names[0])
    for name in names[1:]:
        model.load_adapter(folder / name, name)
    model.base_model.set_adapter(names)
    return model.eval()
