"""The tree on disk is Ollama's: what olla writes, and what olla finds there.

Bytes are told here from the layout's rules, not from olla's own code.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ollama
import pytest

from tests.conformance.conftest import MODEL
from tests.conformance.daemon import Daemon, running_daemon
from tests.conformance.stored import faults

pytestmark = pytest.mark.weights

LIBRARY = "manifests/registry.ollama.ai/library"
LAYER = "application/vnd.ollama.image."


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def layer(media_type: str, data: bytes, **more: str) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data), **more}


def manifest_of(config: bytes, layers: list[dict[str, Any]]) -> bytes:
    """As Ollama writes it: Go's order of keys, no spaces, a newline."""
    document = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": layer("application/vnd.docker.container.image.v1+json", config),
        "layers": layers,
    }
    return json.dumps(document, separators=(",", ":")).encode() + b"\n"


CONFIG = (
    b'{"model_format":"gguf","model_family":"llama","model_families":["llama"],'
    b'"model_type":"134.52M","file_type":"Q4_1","architecture":"amd64","os":"linux"}\n'
)


def blob(models: Path, digest: str) -> Path:
    return models / "blobs" / digest.replace(":", "-")


# What olla writes


@pytest.fixture
def made(client: ollama.Client) -> Iterator[str]:
    client.create(
        "pirate",
        from_=MODEL,
        template="{{ .Prompt }}",
        system="You are a <pirate> & no other.",
        parameters={"temperature": 0.5, "stop": ["<|im_end|>", "Arr"], "num_ctx": 1048576},
        messages=[{"role": "user", "content": "Hé?"}, {"role": "assistant", "content": "Arr!"}],
        license=["Mine", "Yours"],
    )
    yield "pirate"
    client.delete("pirate")


def test_a_manifest_is_ollamas_byte_for_byte(daemon: Daemon, made: str, smollm2_gguf: Path) -> None:
    base = json.loads((daemon.models / LIBRARY / "smollm2" / "135m").read_bytes())
    licenses = [entry for entry in base["layers"] if entry["mediaType"] == f"{LAYER}license"]
    params = b'{"num_ctx":1048576,"stop":["\\u003c|im_end|\\u003e","Arr"],"temperature":0.5}\n'
    messages = '[{"role":"user","content":"Hé?"},{"role":"assistant","content":"Arr!"}]\n'.encode()

    expected = manifest_of(
        CONFIG,
        [
            layer(f"{LAYER}model", smollm2_gguf.read_bytes(), **{"from": MODEL}),
            *({**entry, "from": MODEL} for entry in licenses),
            layer(f"{LAYER}template", b"{{ .Prompt }}"),
            layer(f"{LAYER}system", b"You are a <pirate> & no other."),
            layer(f"{LAYER}license", b"Mine"),
            layer(f"{LAYER}license", b"Yours"),
            layer(f"{LAYER}params", params),
            layer(f"{LAYER}messages", messages),
        ],
    )

    assert (daemon.models / LIBRARY / made / "latest").read_bytes() == expected
    assert faults(daemon.models) == []


def test_the_model_pulled_from_a_package_has_a_manifest_like_any_other(
    daemon: Daemon, client: ollama.Client, smollm2_gguf: Path
) -> None:
    document = json.loads((daemon.models / LIBRARY / "smollm2" / "135m").read_bytes())

    weights = layer(f"{LAYER}model", smollm2_gguf.read_bytes())
    assert (daemon.models / LIBRARY / "smollm2" / "135m").read_bytes() == manifest_of(
        CONFIG, document["layers"]
    )
    assert document["layers"][0] == weights
    assert blob(daemon.models, document["config"]["digest"]).read_bytes() == CONFIG


def test_files_have_ollamas_names_and_modes(daemon: Daemon, made: str) -> None:
    blobs = list((daemon.models / "blobs").iterdir())
    manifests = [path for path in (daemon.models / "manifests").rglob("*") if path.is_file()]

    assert blobs and all(path.name.startswith("sha256-") for path in blobs)
    assert all(len(path.name) == len("sha256-") + 64 for path in blobs)
    assert all(len(path.relative_to(daemon.models).parts) == 5 for path in manifests)
    assert {path.stat().st_mode & 0o777 for path in [*blobs, *manifests]} == {0o644}


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("me/thing:v1.2", "manifests/registry.ollama.ai/me/thing/v1.2"),
        ("localhost:5000/me/thing", "manifests/localhost:5000/me/thing/latest"),
        ("hf.co/a/b:Q4_K_M", "manifests/hf.co/a/b/Q4_K_M"),
    ],
)
def test_a_name_is_a_path_of_four_parts_until_it_is_deleted(
    daemon: Daemon, client: ollama.Client, name: str, path: str
) -> None:
    client.copy(MODEL, name)
    source = daemon.models / LIBRARY / "smollm2" / "135m"

    assert (daemon.models / path).read_bytes() == source.read_bytes()
    client.delete(name)
    assert not (daemon.models / path).parent.parent.exists()
    assert source.exists()


def test_the_digest_of_a_model_is_that_of_its_manifest(
    daemon: Daemon, client: ollama.Client, made: str
) -> None:
    (listed,) = [model for model in client.list().models if model.model == "pirate:latest"]
    data = (daemon.models / LIBRARY / made / "latest").read_bytes()

    document = json.loads(data)
    assert listed.digest == hashlib.sha256(data).hexdigest()
    assert listed.size == sum(entry["size"] for entry in [document["config"], *document["layers"]])


def test_deleting_a_model_removes_its_own_blobs_only(daemon: Daemon, client: ollama.Client) -> None:
    before = {path.name for path in (daemon.models / "blobs").iterdir()}
    client.create("short-lived", from_=MODEL, system="nobody else says this")
    document = json.loads((daemon.models / LIBRARY / "short-lived" / "latest").read_bytes())
    (system,) = [one for one in document["layers"] if one["mediaType"] == f"{LAYER}system"]
    assert blob(daemon.models, system["digest"]).read_bytes() == b"nobody else says this"

    client.delete("short-lived")

    assert {path.name for path in (daemon.models / "blobs").iterdir()} == before


# What olla finds

QUESTION = "Why is the sky blue?"
# What the chat template in the weights does, in the words of a Go template.
TEMPLATE = (
    b"{{- if not .System }}<|im_start|>system\n"
    b"You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n{{ end }}"
    b"{{ range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}"
    b"<|im_start|>assistant\n"
)
# A registry's config has more than Ollama writes itself.
PULLED_CONFIG = CONFIG[:-2] + b',"rootfs":{"type":"layers","diff_ids":["' + b"0" * 64 + b'"]}}\n'
PARAMS = b'{"num_predict":4,"stop":["<|im_start|>","<|im_end|>"],"temperature":0,"unheard_of":[1]}'


class Tree:
    """A store laid out by hand."""

    def __init__(self, models: Path) -> None:
        self.models = models
        (models / "blobs").mkdir(parents=True)

    def add(self, data: bytes) -> bytes:
        blob(self.models, digest_of(data)).write_bytes(data)
        return data

    def name(self, path: str, manifest: bytes) -> bytes:
        file = self.models / "manifests" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(manifest)
        return manifest


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory, smollm2_gguf: Path) -> Tree:
    """x as a registry would give it; beside it what Ollama passes over."""
    tree = Tree(tmp_path_factory.mktemp("ollama") / "models")
    weights = tree.add(smollm2_gguf.read_bytes())
    layers = [
        layer(f"{LAYER}model", weights),
        layer(f"{LAYER}template", tree.add(TEMPLATE)),
        layer(f"{LAYER}license", tree.add(b"Do as you like.")),
        layer(f"{LAYER}params", tree.add(PARAMS)),
        layer(f"{LAYER}embed", tree.add(b"deprecated")),
        layer("application/vnd.example.unheard-of", tree.add(b"?")),
    ]
    manifest = manifest_of(tree.add(PULLED_CONFIG), layers)
    tree.name("registry.ollama.ai/library/x/latest", json.dumps(json.loads(manifest)).encode())
    (tree.models / "blobs" / digest_of(b"Old.")).write_bytes(b"Old.")  # as old stores name blobs
    named = [layers[0], layer(f"{LAYER}system", b"Old.")]
    tree.name("registry.ollama.ai/library/old/V1", manifest_of(tree.add(CONFIG), named))
    tree.name("registry.ollama.ai/library/broken/latest", b'{"schemaVersion":2,')
    tree.name("registry.ollama.ai/library/empty/latest", b"")
    tree.name("registry.ollama.ai/library/x/.DS_Store", b"\0\0")
    tree.name("registry.ollama.ai/stray", b"{}")
    missing = [layer(f"{LAYER}model", b"never stored")]
    tree.name("registry.ollama.ai/library/partial/latest", manifest_of(CONFIG, missing))
    return tree


@pytest.fixture(scope="module")
def found(tree: Tree, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    home = tmp_path_factory.mktemp("found")
    with running_daemon(home, OLLAMA_MODELS=str(tree.models)) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def finder(found: Daemon) -> Iterator[ollama.Client]:
    with ollama.Client(found.url) as client:
        yield client


def test_a_tree_of_ollamas_is_listed(tree: Tree, finder: ollama.Client) -> None:
    models = {model.model: model for model in finder.list().models}

    assert {"x:latest", "old:V1"} <= models.keys()
    assert not {"broken:latest", "empty:latest", "x:.DS_Store"} & models.keys()
    manifest = (tree.models / LIBRARY / "x" / "latest").read_bytes()
    assert models["x:latest"].digest == hashlib.sha256(manifest).hexdigest()
    details = models["x:latest"].details
    assert details is not None
    assert (details.family, details.parameter_size) == ("llama", "134.52M")


def test_a_tree_of_ollamas_is_shown(tree: Tree, finder: ollama.Client) -> None:
    shown = finder.show("x")

    assert shown.license == "Do as you like."
    assert shown.parameters is not None
    assert 'stop                           "<|im_start|>"' in shown.parameters.splitlines()
    assert "num_predict                    4" in shown.parameters.splitlines()
    assert shown.modelfile is not None
    weights = json.loads((tree.models / LIBRARY / "x" / "latest").read_bytes())["layers"][0]
    assert f"FROM {blob(tree.models, weights['digest'])}" in shown.modelfile.splitlines()
    assert "LICENSE Do as you like." in shown.modelfile.splitlines()


def test_a_tree_of_ollamas_answers(finder: ollama.Client, client: ollama.Client) -> None:
    messages = [{"role": "user", "content": QUESTION}]

    reply = finder.chat("x", messages)

    ours = client.chat(MODEL, messages, options={"temperature": 0, "num_predict": 4})
    assert (reply.message.content, reply.done_reason) == (ours.message.content, "length")
    assert reply.eval_count == 4


def test_old_names_of_blobs_are_read(tree: Tree, finder: ollama.Client) -> None:
    assert finder.show("old:v1").modelfile is not None
    assert "SYSTEM Old." in (finder.show("old:v1").modelfile or "").splitlines()
    assert blob(tree.models, digest_of(b"Old.")).read_bytes() == b"Old."


@pytest.mark.parametrize("name", ["X", "library/X:LATEST", "Registry.Ollama.AI/library/x:latest"])
def test_names_are_found_in_any_case_and_made_once(
    tree: Tree, finder: ollama.Client, name: str
) -> None:
    before = sorted(path for path in (tree.models / "manifests").rglob("*"))

    assert finder.show(name).license == "Do as you like."
    finder.copy("x", name)

    assert sorted(path for path in (tree.models / "manifests").rglob("*")) == before


def test_what_olla_makes_of_it_stays_readable_to_ollama(tree: Tree, finder: ollama.Client) -> None:
    finder.create("y", from_="x", parameters={"top_k": 3})

    document = json.loads((tree.models / LIBRARY / "y" / "latest").read_bytes())
    types = [entry["mediaType"] for entry in document["layers"]]
    (params,) = [entry for entry in document["layers"] if entry["mediaType"] == f"{LAYER}params"]
    kept = json.loads((tree.models / LIBRARY / "x" / "latest").read_bytes())["layers"]
    assert sorted(types) == sorted(entry["mediaType"] for entry in kept)
    assert json.loads(blob(tree.models, params["digest"]).read_bytes()) == {
        **json.loads(PARAMS),
        "top_k": 3,
    }
    finder.delete("y")
    assert all(blob(tree.models, entry["digest"]).exists() for entry in kept)


@pytest.fixture
def own(tree: Tree, tmp_path: Path) -> Tree:
    """A store of its own with one valid model, whose files are old."""
    own = Tree(tmp_path / "own")
    shutil.copytree(tree.models / LIBRARY / "x", own.models / LIBRARY / "mine")
    (own.models / LIBRARY / "mine" / ".DS_Store").unlink()
    for path in (tree.models / "blobs").iterdir():
        os.link(path, own.models / "blobs" / path.name)
    return own


def test_olla_models_goes_before_ollama_models(tree: Tree, own: Tree, tmp_path: Path) -> None:
    home = tmp_path / "home"
    both = {"OLLAMA_MODELS": str(tree.models), "OLLA_MODELS": str(own.models)}

    with running_daemon(home, **both) as daemon:
        names = [model["name"] for model in daemon.ask("GET", "/api/tags").json["models"]]

    assert names == ["mine:latest"]
    assert not (home / "models").exists()


@pytest.mark.parametrize(("keep", "is_there"), [("0", False), ("1", True)])
def test_the_start_clears_old_files_that_nothing_needs(
    own: Tree, tmp_path: Path, keep: str, is_there: bool
) -> None:
    stray = own.add(b"nobody needs this")
    long_ago = time.time() - 7200
    for path in (own.models / "blobs").iterdir():
        os.utime(path, (long_ago, long_ago))
    young = own.add(b"somebody may need this yet")
    document = json.loads((own.models / LIBRARY / "mine" / "latest").read_bytes())

    settings = {"OLLAMA_MODELS": str(own.models), "OLLAMA_NOPRUNE": keep}
    with running_daemon(tmp_path / "home", **settings):
        pass

    assert blob(own.models, digest_of(stray)).exists() == is_there
    assert blob(own.models, digest_of(young)).exists()
    needed = [document["config"], *document["layers"]]
    assert all(blob(own.models, entry["digest"]).exists() for entry in needed)
