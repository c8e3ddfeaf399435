"""Adapters that brought tokens of their own: what olla makes of them is what peft computes."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from tokenizers import AddedToken, Tokenizer

from olla.engine.conversion.gguf_file import write_content
from olla.engine.conversion.gguf_model import gguf_content
from olla.engine.conversion.recipes import recipe_for
from olla.engine.conversion.source import FloatModel
from olla.engine.engine import Engine
from olla.engine.loading import load_model, open_checkpoint
from olla.errors import BadInput, FormatError
from olla.modelfile.build import build_model
from olla.modelfile.files import collect_adapter, collect_files
from olla.names import ModelName
from olla.registry.model import Model
from olla.registry.store import ModelStore
from olla.requests import CreateRequest
from olla.runner.conversion import Conversion
from olla.runner.converter import run
from olla.runner.protocol import Adapter
from tests.engine.test_adapters import generate_with, likeliest, move_from_the_start, save_adapter
from tests.modelfile.building import fake_quantize, upload
from tests.tiny_model import VOCAB_SIZE, files_of, save_tiny_model

ADDED = 3
TEMPLATE = "{% for m in messages %}<a>{{ m.content }}{% endfor %}"
KINDS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("llama", {}, {}),
    ("llama", {"tie_word_embeddings": True}, {}),
    ("gpt_neox", {}, {
        "target_modules": ["query_key_value"], "modules_to_save": ["embed_in", "embed_out"]}),
]  # fmt: skip


def save_resized(base: Path, folder: Path, **settings: Any) -> Any:
    """An adapter that knows ADDED tokens more than its base, with its tokenizer; the peft model."""
    torch.manual_seed(1)
    reference = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    reference.resize_token_embeddings(VOCAB_SIZE + ADDED, mean_resizing=False)
    plain = {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}
    config = peft.LoraConfig(r=4, init_lora_weights=False, **{**plain, **settings})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's advice to whoever trains
        model = peft.get_peft_model(reference, config).eval()
        move_from_the_start(model)
        with torch.no_grad():  # so that the new tokens are said
            for parameter in model.parameters():
                if parameter.shape[0] == VOCAB_SIZE + ADDED:
                    parameter[-ADDED:] = torch.randn(ADDED, parameter.shape[1])
        model.save_pretrained(folder)
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in ("<a>", "<b>", "<c>")])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    return model


def create(tmp_path: Path, base: Path, adapter: Path, **fields: Any) -> Model:
    store = ModelStore(tmp_path / "store")
    request = CreateRequest(
        "new",
        files=upload(store, collect_files(base)),
        adapters=upload(store, collect_adapter(adapter)),
        **fields,
    )
    list(build_model(request, store, fake_quantize))
    return store.resolve(ModelName.parse("new"))


def ignore(done: int, total: int) -> None:
    assert done <= total


def adapters_of(model: Model) -> list[Adapter]:
    return [Adapter({name: str(path) for name, path in files.items()}) for files in model.adapters]


@pytest.mark.parametrize(("kind", "model_settings", "settings"), KINDS)
def test_a_model_with_new_tokens_is_what_peft_computes(
    tmp_path: Path, kind: str, model_settings: dict[str, Any], settings: dict[str, Any]
) -> None:
    (tmp_path / "base").mkdir()
    save_tiny_model(tmp_path / "base", kind, **model_settings)
    reference = save_resized(tmp_path / "base", tmp_path / "adapter", **settings)
    model = create(tmp_path, tmp_path / "base", tmp_path / "adapter")
    files = {name: str(path) for name, path in model.files.items()}
    engine = Engine(load_model(files, "float32", "cpu", 0, ignore))
    prompt = engine.encode("<a>the same prompt", False)

    replies = generate_with(engine, [adapters_of(model), []])

    own = Engine(load_model(files_of(tmp_path / "base"), "float32", "cpu", 0, ignore))
    start = len(replies[0]) - 20
    assert prompt[0] == VOCAB_SIZE
    assert replies[0][start:] == likeliest(reference, replies[0])[start - 1 : -1]
    assert any(token >= VOCAB_SIZE for token in replies[0])
    assert replies[1] == generate_with(own, [[]])[0]
    assert model.prompt_template == TEMPLATE


@pytest.mark.parametrize(("kind", "model_settings", "settings"), KINDS)
def test_it_can_be_merged(
    tmp_path: Path, kind: str, model_settings: dict[str, Any], settings: dict[str, Any]
) -> None:
    (tmp_path / "base").mkdir()
    save_tiny_model(tmp_path / "base", kind, **model_settings)
    reference = save_resized(tmp_path / "base", tmp_path / "adapter", **settings)
    model = create(tmp_path, tmp_path / "base", tmp_path / "adapter")
    files = {name: str(path) for name, path in model.files.items()}
    out = str(tmp_path / "merged")

    run(Conversion(files, out, "hf", "", adapters_of(model), merge=True), ignore)

    merged, loading = transformers.AutoModelForCausalLM.from_pretrained(
        out, dtype=torch.float32, output_loading_info=True
    )
    assert not any(loading[problem] for problem in ("missing_keys", "mismatched_keys"))
    assert merged.config.vocab_size == VOCAB_SIZE + ADDED
    assert Tokenizer.from_file(f"{out}/tokenizer.json").token_to_id("<a>") == VOCAB_SIZE
    tokens = torch.tensor([[VOCAB_SIZE, 3, 80, VOCAB_SIZE + 2]])
    with torch.inference_mode():
        found, expected = merged(tokens).logits, reference(tokens).logits
    assert (found - expected).abs().max() <= 2e-2 * expected.abs().max()


def test_it_is_exported_merged_only(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    save_tiny_model(tmp_path / "base")
    save_resized(tmp_path / "base", tmp_path / "adapter")
    model = create(tmp_path, tmp_path / "base", tmp_path / "adapter")
    files = {name: str(path) for name, path in model.files.items()}
    job = Conversion(files, str(tmp_path / "out"), "hf", "", adapters_of(model))

    with pytest.raises(BadInput, match="new tokens is exported merged: add --merge"):
        run(job, ignore)
    assert not (tmp_path / "out").exists()


def test_what_it_takes_is_named(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    save_tiny_model(tmp_path / "base")
    save_resized(tmp_path / "base", tmp_path / "adapter")
    (tmp_path / "adapter" / "tokenizer.json").unlink()

    with pytest.raises(BadInput, match=r"tokenizer\.json is not beside it: save the tokenizer"):
        create(tmp_path, tmp_path / "base", tmp_path / "adapter")

    gguf = tmp_path / "base.gguf"
    content = gguf_content(FloatModel(files_of(tmp_path / "base")), "")
    write_content(content, recipe_for("f32"), gguf, ignore)
    with pytest.raises(BadInput, match="which a base in GGUF cannot"):
        create(tmp_path, gguf, tmp_path / "adapter")


def test_a_template_beside_an_adapter_is_the_models(tmp_path: Path) -> None:
    """Whatever the base's is; one that is asked for wins."""
    (tmp_path / "base").mkdir()
    save_tiny_model(tmp_path / "base")
    save_adapter(tmp_path / "base", tmp_path / "adapter", seed=1)
    (tmp_path / "adapter" / "chat_template.jinja").write_text(TEMPLATE)

    found = create(tmp_path, tmp_path / "base", tmp_path / "adapter")
    asked = create(tmp_path, tmp_path / "base", tmp_path / "adapter", template="{{ messages }}")
    (tmp_path / "base" / "chat_template.jinja").write_text(TEMPLATE)
    same = create(tmp_path, tmp_path / "base", tmp_path / "adapter")

    assert [model.prompt_template for model in (found, asked, same)] == [
        TEMPLATE, "{{ messages }}", TEMPLATE
    ]  # fmt: skip
    assert same.template == ""  # the base's own says it
    assert found.weights_key == asked.weights_key


@pytest.mark.parametrize(
    ("size", "text"), [("x", "base_vocab_size must be a positive whole number"), (999, "is above")]
)
def test_a_size_that_makes_no_sense_is_refused(tmp_path: Path, size: object, text: str) -> None:
    files = save_tiny_model(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "base_vocab_size": size}))

    with pytest.raises(FormatError, match=text):
        open_checkpoint(files)
