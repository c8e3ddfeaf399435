"""Models from hubs, by the real commands: a daemon whose hubs are servers on loopback."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import transformers
from safetensors.torch import load_file, save_file

from olla.formats.gguf import read_gguf
from tests.conformance.daemon import Daemon, running_daemon
from tests.engine.test_adapters import save_adapter
from tests.gguf_model import write_gguf
from tests.gguf_split import split_gguf
from tests.sources.hub_server import Repo, serving
from tests.sources.hub_writes import WritableHub
from tests.sources.modelscope_server import ModelScope
from tests.tiny_model import save_tiny_model

WELL_KNOWN = "Qwen/Qwen3-4B-GGUF"
TEMPLATE = b"{% for m in messages %}{{ m.content }}{% endfor %}"


class Hubs(NamedTuple):
    daemon: Daemon
    huggingface: WritableHub
    modelscope: ModelScope

    def generate(self, model: str) -> str:
        options = {"temperature": 0, "num_predict": 8}
        body = {"model": model, "prompt": "hello", "raw": True, "stream": False}
        reply = self.daemon.ask("POST", "/api/generate", {**body, "options": options})
        return str(reply.json["response"])


@pytest.fixture(scope="module")
def hubs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hubs]:
    home = tmp_path_factory.mktemp("home")
    repos = tiny_repositories(tmp_path_factory.mktemp("tiny"))
    huggingface, modelscope = WritableHub(repos), ModelScope({"org/tiny": repos["org/tiny"]})
    with (
        serving(huggingface.app()) as huggingface.url,
        serving(modelscope.app()) as modelscope.url,
        running_daemon(
            home,
            HF_ENDPOINT=huggingface.url,
            HF_HOME=str(home / "hf"),
            HF_TOKEN=huggingface.token,
            MODELSCOPE_ENDPOINT=modelscope.url,
            MODELSCOPE_CACHE=str(home / "ms"),
            MODELSCOPE_HOME=str(home / "ms"),
            OLLA_SOURCES="modelscope,hf",
        ) as daemon,
    ):
        yield Hubs(daemon, huggingface, modelscope)


def tiny_repositories(folder: Path) -> dict[str, Repo]:
    """One random model, as safetensors and as GGUF."""
    files = {name: Path(path).read_bytes() for name, path in save_tiny_model(folder).items()}
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    path = folder / "tiny-F32.gguf"
    gguf = write_gguf(path, model, "llama", add_metadata=lambda writer: writer.add_file_type(0))
    return {
        "org/tiny": Repo({**files, "chat_template.jinja": TEMPLATE, "README.md": b"Tiny"}),
        WELL_KNOWN: Repo({"tiny-Q4_K_M.gguf": gguf.read_bytes(), "params": b'{"num_predict": 8}'}),
        "org/tiny-gguf": Repo(
            {"tiny-F32.gguf": gguf.read_bytes(), "params": b'{"num_predict": 8}'}
        ),
    }


def test_run_pulls_a_model_from_hugging_face_and_answers(hubs: Hubs) -> None:
    done = hubs.daemon.run("run", "hf.co/org/tiny-gguf:f32", "hello")

    assert (done.returncode, done.stdout.strip() != "") == (0, True), done.stderr


def test_run_finds_a_well_known_name_where_another_hub_has_it(hubs: Hubs) -> None:
    done = hubs.daemon.run("run", "qwen3:4b", "hello")

    assert (done.returncode, done.stdout.strip() != "") == (0, True), done.stderr
    assert "modelscope refused, trying hf" in done.stderr


def test_the_same_model_from_anywhere_answers_alike(hubs: Hubs) -> None:
    names = ("hf.co/org/tiny", "hf.co/org/tiny-gguf", "modelscope.cn/org/tiny")
    pulls = [hubs.daemon.run("pull", name) for name in names]

    replies = [hubs.generate(name) for name in names]

    assert [done.returncode for done in pulls] == [0, 0, 0], pulls
    assert hubs.modelscope.fetched == []  # the store has these bytes from the other hub
    assert replies[0] == replies[1] == replies[2] != ""


@pytest.mark.weights
def test_a_split_file_answers_as_the_whole_one_does(
    hubs: Hubs, smollm2_gguf: Path, tmp_path: Path
) -> None:
    whole, split, local = "whole", "hf.co/org/split:q4_1", "local"
    parts = split_gguf(smollm2_gguf, tmp_path / "SmolLM2-Q4_1", 100)
    files = {f"Q4_1/{path.name}": path.read_bytes() for path in parts}
    hubs.huggingface.repos["org/split"] = Repo(files)
    exported = tmp_path / "exported.gguf"

    commands = [
        hubs.daemon.run("pull", split),
        hubs.daemon.run("create", whole, "--from", str(smollm2_gguf)),
        hubs.daemon.run("create", local, "--from", str(parts[0])),
        hubs.daemon.run("export", split, str(exported), "--format", "gguf"),
        hubs.daemon.run("verify", split),
    ]

    assert [done.returncode for done in commands] == [0] * 5, commands
    assert hubs.generate(split) == hubs.generate(local) == hubs.generate(whole) != ""
    shown = hubs.daemon.run("show", split).stdout
    assert "134.52M" in shown
    assert "Q4_1" in shown
    assert read_gguf(exported).tensors


def test_split_floats_are_quantized(hubs: Hubs, tmp_path: Path) -> None:
    whole = tmp_path / "whole.gguf"
    whole.write_bytes(hubs.huggingface.repos["org/tiny-gguf"].files["tiny-F32.gguf"])
    first, *_ = split_gguf(whole, tmp_path / "tiny", 5)

    done = hubs.daemon.run("create", "smaller", "--from", str(first), "-q", "q8_0")

    assert done.returncode == 0, done.stderr
    assert "Q8_0" in hubs.daemon.run("show", "smaller").stdout


@pytest.mark.parametrize("name", ["hf.co/org/tiny", "hf.co/org/tiny-gguf"])
def test_what_is_pushed_is_pulled_again_and_answers_alike(hubs: Hubs, name: str) -> None:
    copy = name.replace("/org/", "/me/")
    hubs.daemon.run("pull", name)
    before = hubs.generate(name)

    pushed = hubs.daemon.run("push", name, copy)
    hubs.daemon.run("rm", name)
    done = hubs.daemon.run("pull", copy)

    place = copy.replace("hf.co", "https://huggingface.co")
    assert pushed.stdout == f"\nYou can find your model at:\n\n\t{place}\n", pushed.stderr
    assert "pushing manifest\nsuccess\n" in pushed.stderr
    assert done.returncode == 0, done.stderr
    assert hubs.generate(copy) == before != ""


def test_a_fine_tune_answers_alike_pulled_and_from_its_folder(hubs: Hubs, tmp_path: Path) -> None:
    """Its weights in two files, with a chat template of its own; over no other base by mistake."""
    save_tiny_model(tmp_path)
    folder = tmp_path / "pirate"
    save_adapter(tmp_path, folder, seed=1)
    split_adapter(folder, base="org/tiny")
    (folder / "chat_template.jinja").write_bytes(TEMPLATE + b" arr")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    hubs.huggingface.repos["me/pirate"] = Repo(files)
    create = ("create", "local", "--from", "hf.co/org/tiny", "--adapter", str(folder))

    hubs.daemon.run("pull", "hf.co/me/pirate")
    hubs.daemon.run("pull", "hf.co/org/tiny")
    right = hubs.daemon.run(*create)
    split_adapter(folder, base="org/other")
    wrong, forced = hubs.daemon.run(*create), hubs.daemon.run(*create, "--force")

    assert (right.returncode, wrong.returncode, forced.returncode) == (0, 1, 0), right.stderr
    assert "was trained on org/other, but the base is hf.co/org/tiny: lay it over" in wrong.stderr
    assert "warning: the adapter was trained on org/other" in forced.stderr
    shown = [hubs.daemon.run("show", name, "--template") for name in ("hf.co/me/pirate", "local")]
    assert shown[0].stdout.strip() == shown[1].stdout.strip() == TEMPLATE.decode() + " arr"
    assert hubs.generate("hf.co/me/pirate") == hubs.generate("local") != ""
    assert hubs.generate("local") != hubs.generate("hf.co/org/tiny")


def split_adapter(folder: Path, base: str) -> None:
    """Write an adapter's weights in two files with an index, and another base in its config."""
    tensors = {n: t for path in folder.glob("*.safetensors") for n, t in load_file(path).items()}
    for path in folder.glob("*.safetensors"):
        path.unlink()
    names = sorted(tensors)
    shards = {f"adapter_model-0000{at}-of-00002.safetensors": names[at - 1 :: 2] for at in (1, 2)}
    for file, inside in shards.items():
        save_file({name: tensors[name] for name in inside}, folder / file)
    weight_map = {name: file for file, inside in shards.items() for name in inside}
    index = folder / "adapter_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = base
    (folder / "adapter_config.json").write_text(json.dumps(config))


def test_a_repository_that_is_not_there_is_one_line(hubs: Hubs) -> None:
    done = hubs.daemon.run("pull", "hf.co/org/gone")

    assert done.returncode == 1
    assert "Hugging Face has no repository org/gone" in done.stderr
