"""Models between real daemons and a real registry, by the real command, with interruptions."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import ollama
import pytest

from olla.names import ModelName
from olla.registry.manifest import MediaType
from olla.registry.store import ModelStore
from tests.cli.tmux import Terminal
from tests.conformance.daemon import Daemon, running_daemon
from tests.conformance.stored import faults
from tests.registry.models import put_model
from tests.sources.docker_registry import docker_registry

SIZE = 40_000_000
RATE = 10_000_000
DEADLINE_S = 30.0


@pytest.fixture(scope="module")
def sharing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon that shares a model of forty megabytes."""
    home = tmp_path_factory.mktemp("sharing")
    weights = random.Random(5).randbytes(SIZE)
    put_model(ModelStore(home / "models"), "large", (MediaType.LICENSE, weights))
    with running_daemon(home, OLLA_SHARE="1") as daemon:
        yield daemon


@pytest.fixture
def place(sharing: Daemon) -> str:
    """The name of the shared model on other machines."""
    return f"127.0.0.1:{sharing.port}/library/large:latest"


def same(sharing: Daemon, other: Daemon, place: str) -> bool:
    """Whether the other one has the model as it is at its source."""
    theirs = ModelStore(sharing.models).read_manifest(ModelName.parse("large"))
    ours = ModelStore(other.models).read_manifest(ModelName.parse(place))
    return ours == theirs and faults(other.models) == []


def kept_bytes(daemon: Daemon) -> int:
    """How much of the blob that is on its way is on the disk."""
    partials = (daemon.models / "blobs").glob("*-partial")
    return sum(path.stat().st_blocks * 512 for path in partials)


def wait_until_some_is_kept(daemon: Daemon, num_bytes: int) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while kept_bytes(daemon) < num_bytes:
        assert time.monotonic() < deadline, "nothing comes"
        time.sleep(0.02)


def test_a_model_goes_by_a_registry_to_another_machine(
    tmp_path: Path, sharing: Daemon, place: str
) -> None:
    with (
        docker_registry(tmp_path / "registry") as registry,
        running_daemon(tmp_path / "far") as far,
        ollama.Client(sharing.url) as here,
        ollama.Client(far.url) as there,
    ):
        name = f"{registry.host}/me/large:v1"
        here.copy("large", name)
        statuses = [step.status for step in here.push(name, insecure=True, stream=True)]
        assert statuses[0] == "retrieving manifest"
        assert statuses[-2:] == ["pushing manifest", "success"]
        assert there.pull(name, insecure=True).status == "success"
        assert same(sharing, far, name)
        with pytest.raises(ollama.ResponseError, match="pull model manifest: file does not exist"):
            there.pull(f"{registry.host}/me/none", insecure=True)
        here.delete(name)


def test_ctrl_c_stops_a_pull_and_the_next_one_goes_on(
    tmp_path: Path, sharing: Daemon, place: str
) -> None:
    with running_daemon(tmp_path / "home") as daemon:
        environment = {**os.environ, "OLLA_HOST": daemon.url, "OLLA_HOME": str(daemon.home)}
        first = Terminal(tmp_path / "first", environment)
        second = Terminal(tmp_path / "second", environment)
        try:
            first.start("pull", "--insecure", "--limit-rate", str(RATE), place)
            first.wait_for("▕█")
            wait_until_some_is_kept(daemon, SIZE // 4)
            first.type("C-c")
            first.wait_for("exit=130")
            assert daemon.ask("GET", "/api/tags").json["models"] == []
            kept = kept_bytes(daemon)
            time.sleep(0.3)  # in which a transfer that goes on would show
            assert kept_bytes(daemon) == kept

            started = time.monotonic()
            second.start("pull", "--insecure", "--limit-rate", str(RATE), place)
            second.wait_for("exit=0")
            assert time.monotonic() - started > (SIZE - kept) / RATE / 2
            shown = second.screen()
        finally:
            first.close()
            second.close()
        assert "100% ▕████" in shown
        assert same(sharing, daemon, place)


def test_a_daemon_that_was_killed_goes_on_with_the_pull(
    tmp_path: Path, sharing: Daemon, place: str
) -> None:
    body = {"model": place, "insecure": True}
    with running_daemon(tmp_path) as daemon:
        with ollama.Client(daemon.url) as client:
            steps = client.pull(place, insecure=True, stream=True)
            next(step for step in steps if step.completed)
        daemon.stop(signal.SIGKILL)
        kept = kept_bytes(daemon)
    assert faults(daemon.models) == []

    with running_daemon(tmp_path) as daemon:
        assert kept_bytes(daemon) == kept
        with ollama.Client(daemon.url) as client:
            first = next(s for s in client.pull(**body, stream=True) if s.completed)
        assert first.completed
        assert daemon.ask("POST", "/api/pull", body).status == 200
        assert same(sharing, daemon, place)


def test_two_daemons_get_on_with_one_store_and_say_so(
    tmp_path: Path, sharing: Daemon, place: str
) -> None:
    models = str(tmp_path / "models")
    with (
        running_daemon(tmp_path / "one", OLLA_MODELS=models) as one,
        running_daemon(tmp_path / "two", OLLA_MODELS=models) as two,
    ):
        body = {"model": place, "insecure": True, "stream": False}
        answers = [daemon.ask("POST", "/api/pull", body) for daemon in (one, two)]

        assert [answer.json for answer in answers] == [{"status": "success"}] * 2
        warning = "another olla serves the models in"
        assert warning not in (one.home / "daemon.log").read_text()
        assert warning in (two.home / "daemon.log").read_text()
    assert faults(Path(models)) == []
