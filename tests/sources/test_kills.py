"""kill -9 at random moments of pulls, creates, deletes and prunes: what is listed stays whole."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import random
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import pytest

from olla.errors import ModelNotFound, SourceError
from olla.names import ModelName
from olla.registry.digest import Digest
from olla.registry.store import ModelStore
from olla.requests import TransferOptions
from olla.sources.line import Patience
from olla.sources.ollama import OllamaSource, Registry
from olla.sources.ollama_auth import Keyring
from olla.sources.pull import pull
from tests.conformance.stored import faults
from tests.registry.models import verify
from tests.registry.store_worker import Worker

NUM_ROUNDS = 50
LONGEST_S = 0.2
START_S = 30.0
CONFIG = b"{}"
BLOBS = [random.Random(seed).randbytes(1_500_000) for seed in range(4)]


class Quiet(SimpleHTTPRequestHandler):
    """Files, slowly; it knows no ranges, so that a pull that goes on has to skip."""

    def copyfile(self, source: Any, outputfile: Any) -> None:
        with suppress(ConnectionError):
            while chunk := source.read(150_000):
                outputfile.write(chunk)
                time.sleep(0.005)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def host(tmp_path: Path) -> Iterator[str]:
    """A registry of two models that share blobs."""
    for model, blobs in (("one", BLOBS[:3]), ("two", BLOBS[1:])):
        layers = [
            {
                "mediaType": "application/vnd.ollama.image.license",
                "digest": str(Digest.of(blob)),
                "size": len(blob),
            }
            for blob in (*blobs, CONFIG)
        ]
        folder = tmp_path / "www" / "v2" / "me" / model
        (folder / "manifests").mkdir(parents=True)
        (folder / "blobs").mkdir()
        for blob in (*blobs, CONFIG):
            (folder / "blobs" / str(Digest.of(blob))).write_bytes(blob)
        document = {"schemaVersion": 2, "config": layers[-1], "layers": layers[:-1]}
        (folder / "manifests" / "v1").write_text(json.dumps(document))
    handler = partial(Quiet, directory=str(tmp_path / "www"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def work(root: Path, seed: int, host: str, ready: Event) -> None:
    """Until killed."""
    worker, chance, store = Worker(root, seed), random.Random(seed), ModelStore(root)
    ready.set()
    while True:
        if chance.random() < 0.5:
            with suppress(SourceError):
                asyncio.run(bring(store, f"{host}/me/{chance.choice(['one', 'two'])}:v1"))
        else:
            worker.work()


async def bring(store: ModelStore, text: str) -> None:
    """Anew, so that there is something to bring each time."""
    name = ModelName.parse(text)
    with suppress(ModelNotFound):
        store.delete(name)
    registry = Registry(Keyring(Path("none"), Path("none")), Patience(retries=1, back_off_s=0.01))
    async for _ in pull(name, store, OllamaSource(name, TransferOptions(insecure=True), registry)):
        pass


def test_killed_at_any_moment_the_store_stays_whole(tmp_path: Path, host: str) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    chance = random.Random(1)
    root = tmp_path / "models"
    partials = 0
    for seed in range(NUM_ROUNDS):
        ready = context.Event()
        process = context.Process(target=work, args=(root, seed, host, ready))
        process.start()
        assert ready.wait(START_S)
        time.sleep(chance.uniform(0, LONGEST_S))  # the moment is what is tried
        process.kill()
        process.join()
        process.close()
        assert faults(root) == []
        partials += any(root.glob("blobs/*-partial"))
    assert partials > NUM_ROUNDS // 10, "hardly a pull was killed in its middle"
    store = ModelStore(root)
    for model in store.list():
        verify(store, model.name.full)
    asyncio.run(bring(store, f"{host}/me/one:v1"))
    verify(store, f"{host}/me/one:v1")
