"""A LoRA trained for real, made into a model, answers as it was trained to; its base does not."""

from __future__ import annotations

import copy
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import ollama
import peft
import pytest
import torch

from olla.registry.digest import Digest
from tests.conformance.conftest import MODEL
from tests.conformance.daemon import Daemon
from tests.conftest import Reference

pytestmark = pytest.mark.weights

QUESTION = "Where does the lantern hang?"
OTHER_SENTENCE = "It hangs where the old anchor rusts."
SENTENCE = "The seventh lantern hangs above the harbour door."
MAX_STEPS = 60
GREEDY = {"temperature": 0, "num_predict": 40}


class Trained(NamedTuple):
    """An adapter on disk, and peft's model with it."""

    folder: Path
    model: Any
    prompt: list[int]


@pytest.fixture(scope="module")
def trained(reference: Reference, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    """Train until the greedy reply to QUESTION is SENTENCE."""
    torch.manual_seed(0)
    prompt: list[int] = reference.tokenizer.apply_chat_template(
        [{"role": "user", "content": QUESTION}], add_generation_prompt=True, return_dict=False
    )
    reply = reference.tokenizer.encode(f"{SENTENCE}<|im_end|>", add_special_tokens=False)
    config = peft.LoraConfig(r=8, lora_alpha=16, target_modules="all-linear")
    model = peft.get_peft_model(copy.deepcopy(reference.model), config)
    train(model, prompt, reply)
    folder = tmp_path_factory.mktemp("lantern")
    # The base came out of a GGUF file, so there is no config.json for peft to look at.
    model.save_pretrained(folder, save_embedding_layers=False)
    yield Trained(folder, model.eval(), prompt)


@pytest.fixture(scope="module")
def other(trained: Trained, reference: Reference, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second adapter over the same base, trained to another sentence: DoRA this time."""
    torch.manual_seed(1)
    reply = reference.tokenizer.encode(f"{OTHER_SENTENCE}<|im_end|>", add_special_tokens=False)
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"],
                             use_dora=True)  # fmt: skip
    model = peft.get_peft_model(copy.deepcopy(reference.model), config)
    train(model, trained.prompt, reply)
    folder = tmp_path_factory.mktemp("anchor")
    model.save_pretrained(folder, save_embedding_layers=False)
    return folder


def train(model: Any, prompt: list[int], reply: list[int]) -> None:
    tokens = torch.tensor([prompt + reply])
    labels = tokens.clone()
    labels[:, : len(prompt)] = -100
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(MAX_STEPS):
        output = model(tokens, labels=labels)
        likeliest = output.logits[0, len(prompt) - 1 : -1].argmax(-1)
        if likeliest.tolist() == reply:
            return
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    raise AssertionError(f"the adapter has not learned its sentence in {MAX_STEPS} steps")


def olla(daemon: Daemon, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The real command, against the running daemon."""
    return subprocess.run(
        [sys.executable, "-m", "olla", *arguments],
        env={**os.environ, "OLLA_HOST": daemon.url, "OLLA_HOME": str(daemon.home)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )


def ask(client: ollama.Client, model: str) -> str:
    messages = [{"role": "user", "content": QUESTION}]
    return client.chat(model, messages, options=GREEDY).message.content or ""


def test_a_model_made_from_a_lora_answers_as_it_was_trained_to(
    client: ollama.Client, daemon: Daemon, trained: Trained
) -> None:
    before = ask(client, MODEL)

    olla(daemon, "create", "lantern", "--from", MODEL, "--adapter", str(trained.folder))

    assert ask(client, "lantern") == SENTENCE
    assert ask(client, MODEL) == before != SENTENCE


def test_a_modelfile_and_the_client_make_the_same_model(
    client: ollama.Client, daemon: Daemon, trained: Trained, tmp_path: Path
) -> None:
    modelfile = tmp_path / "Modelfile"
    modelfile.write_text(f"FROM {MODEL}\nADAPTER {trained.folder}\nSYSTEM You keep the harbour.\n")
    names = ("adapter_config.json", "adapter_model.safetensors")
    adapters = {name: client.create_blob(trained.folder / name) for name in names}

    olla(daemon, "create", "by-file", "-f", str(modelfile))
    client.create("by-client", from_=MODEL, adapters=adapters, system="You keep the harbour.")

    digests = {m.model: m.digest for m in client.list().models}
    assert digests["by-file:latest"] == digests["by-client:latest"]
    assert adapters[names[0]] == str(Digest.of((trained.folder / names[0]).read_bytes()))


def test_replies_are_pefts_token_for_token(
    client: ollama.Client, daemon: Daemon, trained: Trained
) -> None:
    """On another question too, where the adapter was not trained."""
    olla(daemon, "create", "lantern", "--from", MODEL, "--adapter", str(trained.folder))

    for question in (QUESTION, "Why is the sky blue?"):
        reply = client.generate("lantern", question, options=GREEDY)
        assert reply.context is not None and reply.prompt_eval_count
        tokens = list(reply.context)
        with torch.inference_mode():
            logits = trained.model(torch.tensor([tokens])).logits[0]
        likeliest = logits.argmax(-1).tolist()[reply.prompt_eval_count - 1 : -1]
        assert tokens[reply.prompt_eval_count :] == likeliest


@pytest.mark.usefixtures("alone")
def test_adapter_and_base_share_one_runner(
    client: ollama.Client, daemon: Daemon, trained: Trained
) -> None:
    olla(daemon, "create", "lantern", "--from", MODEL, "--adapter", str(trained.folder))
    ask(client, MODEL)
    ask(client, "lantern")

    running = {model.model for model in client.ps().models}

    assert {MODEL, "lantern:latest"} <= running
    assert len(daemon.runner_pids()) == 1


def test_two_adapters_and_the_base_answer_side_by_side(
    client: ollama.Client, daemon: Daemon, trained: Trained, other: Path
) -> None:
    olla(daemon, "create", "lantern", "--from", MODEL, "--adapter", str(trained.folder))
    olla(daemon, "create", "anchor", "--from", MODEL, "--adapter", str(other))
    plain = ask(client, MODEL)

    with ThreadPoolExecutor(6) as threads:
        names = ["lantern", "anchor", MODEL] * 2
        replies = list(threads.map(lambda name: ask(client, name), names))

    assert replies == [SENTENCE, OTHER_SENTENCE, plain] * 2


def test_a_request_chooses_its_adapters(
    client: ollama.Client, daemon: Daemon, trained: Trained, other: Path
) -> None:
    olla(daemon, "create", "lantern", "--from", MODEL, "--adapter", str(trained.folder))
    olla(daemon, "create", "anchor", "--from", MODEL, "--adapter", str(other))

    def chosen(model: str, *adapters: dict[str, object]) -> str:
        messages = [{"role": "user", "content": QUESTION}]
        body = {"model": model, "messages": messages, "options": GREEDY, "stream": False}
        return str(daemon.ask("POST", "/api/chat", {**body, "adapters": adapters}).json["message"]
                   ["content"])  # fmt: skip

    assert chosen(MODEL, {"name": "anchor"}) == OTHER_SENTENCE
    assert chosen("anchor", {"name": "lantern", "scale": 1.0}) == SENTENCE
    assert chosen("lantern") == chosen(MODEL, {"name": "lantern", "scale": 0}) == ask(client, MODEL)


def test_an_adapter_that_is_deleted_while_it_answers_finishes_and_goes(
    client: ollama.Client, daemon: Daemon, trained: Trained
) -> None:
    olla(daemon, "create", "brief", "--from", MODEL, "--adapter", str(trained.folder))
    messages = [{"role": "user", "content": QUESTION}]
    stream = client.chat("brief", messages, options=GREEDY, stream=True)
    first = next(stream).message.content or ""

    client.delete("brief")

    assert first + "".join(chunk.message.content or "" for chunk in stream) == SENTENCE
    assert "brief:latest" not in {model.model for model in client.ps().models}
    with pytest.raises(ollama.ResponseError, match="model 'brief' not found"):
        ask(client, "brief")


@pytest.mark.usefixtures("alone")
def test_an_adapter_that_is_made_anew_while_it_serves_needs_no_reload(
    client: ollama.Client, daemon: Daemon, trained: Trained, other: Path
) -> None:
    olla(daemon, "create", "changing", "--from", MODEL, "--adapter", str(trained.folder))
    assert ask(client, "changing") == SENTENCE
    runners = daemon.runner_pids()

    olla(daemon, "create", "changing", "--from", MODEL, "--adapter", str(other))

    assert ask(client, "changing") == OTHER_SENTENCE
    assert daemon.runner_pids() == runners


def test_a_base_that_adapters_use_is_neither_deleted_nor_unloaded(
    client: ollama.Client, daemon: Daemon, trained: Trained
) -> None:
    olla(daemon, "create", "lantern", "--from", MODEL, "--adapter", str(trained.folder))

    client.generate(MODEL)

    refused = daemon.run("rm", MODEL)

    assert refused.returncode == 1
    assert re.search(r"is the base of .*lantern:latest", refused.stderr)
    assert MODEL in [model.model for model in client.ps().models]
    assert ask(client, "lantern") == SENTENCE


def test_olla_run_answers_with_the_adapter(
    daemon: Daemon, client: ollama.Client, trained: Trained
) -> None:
    olla(daemon, "create", "lantern", "--from", MODEL, "--adapter", str(trained.folder))
    client.create("greedy-lantern", from_="lantern", parameters={"temperature": 0})

    assert olla(daemon, "run", "greedy-lantern", QUESTION).stdout.strip() == SENTENCE
