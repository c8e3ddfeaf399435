"""One daemon with the real SmolLM2 for all tests of this folder, driven by the official client."""

from __future__ import annotations

import time
from collections.abc import Iterator

import ollama
import pytest

from tests.conformance.daemon import Daemon, running_daemon
from tests.conformance.stored import Store, tree

MODEL = "smollm2:135m"
MINILM = "all-minilm"
GEMMA3 = "gemma3:270m-pt"


@pytest.fixture(scope="session")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running_daemon(tmp_path_factory.mktemp("home")) as daemon:
        yield daemon


@pytest.fixture(scope="session")
def client(daemon: Daemon) -> Iterator[ollama.Client]:
    """The official client, with the model pulled."""
    with ollama.Client(daemon.url) as client:
        client.pull(MODEL)
        yield client


@pytest.fixture(scope="session")
def minilm(client: ollama.Client) -> str:
    """The name of the real all-MiniLM-L6-v2, pulled: an encoder, in safetensors."""
    client.pull(MINILM)
    return MINILM


@pytest.fixture(scope="session")
def gemma3(client: ollama.Client) -> str:
    """The name of the real Gemma 3 270M as it was pre-trained, pulled: GGUF, Q4_K_M."""
    client.pull(GEMMA3)
    return GEMMA3


@pytest.fixture
def alone(daemon: Daemon, client: ollama.Client) -> None:
    """No model is loaded, whatever other tests have used."""
    for loaded in client.ps().models:
        client.generate(loaded.model or "", keep_alive=0)
    deadline = time.monotonic() + 20
    while daemon.runner_pids():
        assert time.monotonic() < deadline, "the runners do not end"
        time.sleep(0.05)


@pytest.fixture
def store(daemon: Daemon, client: ollama.Client) -> Iterator[Store]:
    """The daemon's store; after the test it holds what it held, and the daemon answers."""
    store = Store(daemon)
    before = tree(daemon.models)
    yield store
    store.uploads -= before.keys()
    assert store.files() == before
    assert daemon.ask("HEAD", "/") == (200, b"")
