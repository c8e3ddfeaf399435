"""ModelStore with many hands on it: processes, threads, and processes that are killed."""

from __future__ import annotations

import logging
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from olla.registry.manifest import MediaType
from olla.registry.store import ModelStore
from tests.registry.models import blob_names, name, put_model, verify
from tests.registry.store_worker import Worker


def start(root: Path, seed: int, rounds: int) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-m",
        "tests.registry.store_worker",
        str(root),
        str(seed),
        str(rounds),
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def assert_whole(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Every model verifies, none is broken, and only what they name survives a prune."""
    store = ModelStore(root)
    with caplog.at_level(logging.WARNING):
        models = store.list()
        store.prune()
    assert caplog.text == ""
    for model in models:
        verify(store, model.name.full)
    named = {layer.digest.file_name for model in models for layer in model.manifest.blobs}
    assert named <= blob_names(root)


def test_processes_that_put_copy_delete_and_prune_leave_every_model_whole(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    workers = [start(root, seed, rounds=80) for seed in range(4)]

    for worker in workers:
        _, errors = worker.communicate()
        assert worker.returncode == 0, errors.decode()
    assert_whole(root, caplog)


def test_threads_that_put_copy_delete_and_prune_leave_every_model_whole(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def work(seed: int) -> None:
        worker = Worker(root, seed)
        for _ in range(60):
            worker.work()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(4)))
    assert_whole(root, caplog)


@pytest.mark.parametrize("rounds_seen", range(1, 11, 2))
def test_a_killed_process_leaves_every_model_whole(
    root: Path, caplog: pytest.LogCaptureFixture, rounds_seen: int
) -> None:
    with start(root, seed=rounds_seen, rounds=0) as worker:
        assert worker.stdout is not None
        for _ in range(rounds_seen):
            worker.stdout.readline()
        worker.kill()

    assert_whole(root, caplog)
    put_model(ModelStore(root), "after", (MediaType.MODEL, b"the lock is free"))
    verify(ModelStore(root), "after")


def test_a_reader_sees_the_old_model_or_the_new_one(root: Path, store: ModelStore) -> None:
    """Each replacement removes the blobs of the one before it, under the reader's hands."""
    put_model(store, "m", (MediaType.SYSTEM, b"0"))

    def replace() -> None:
        for index in range(1, 60):
            put_model(store, "m", (MediaType.SYSTEM, str(index).encode()))

    with ThreadPoolExecutor(1) as threads:
        writing = threads.submit(replace)
        seen = [store.resolve(name("m")).system]
        while not writing.done():
            seen.append(store.resolve(name("m")).system)
        writing.result()

    assert [int(system) for system in seen] == sorted(int(system) for system in seen)
