"""One daemon with the real SmolLM2 for all tests of this folder, driven by the official client."""

from __future__ import annotations

from collections.abc import Iterator

import ollama
import pytest

from tests.conformance.daemon import Daemon, running_daemon
from tests.conformance.stored import Store, tree

MODEL = "smollm2:135m"


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


@pytest.fixture
def store(daemon: Daemon, client: ollama.Client) -> Iterator[Store]:
    """The daemon's store; after the test it holds what it held, and the daemon answers."""
    store = Store(daemon)
    before = tree(daemon.models)
    yield store
    store.uploads -= before.keys()
    assert store.files() == before
    assert daemon.ask("HEAD", "/") == (200, b"")
