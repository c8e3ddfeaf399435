"""`olla doctor` as a whole; what each check finds is tested with the findings."""

from __future__ import annotations

from pathlib import Path

import pytest

from olla import __version__
from tests.cli.conftest import Olla
from tests.cli.fake_daemon import FakeDaemon, Reply

ROOT = Path(__file__).parents[2]
# Nobody listens there, so every hub is out of reach at once, with and without a network.
NO_NETWORK = {"https_proxy": "http://127.0.0.1:9", "OLLA_SOURCES": "package,hf"}


@pytest.fixture(autouse=True)
def _versions(daemon: FakeDaemon) -> None:
    daemon.script("GET /api/version", Reply([{"version": "0.9", "olla": __version__}]))


def test_a_machine_in_order(olla: Olla, daemon: FakeDaemon, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("not Python: the folder of whoever asks does not count")

    done = olla("doctor", PYTHONPATH=str(ROOT), **NO_NETWORK)

    assert (done.returncode, done.stderr) == (0, "")
    rows = [(line[:8].strip(), line[8:24].strip()) for line in done.stdout.splitlines()]
    subjects = [subject for health, subject in rows if health != "faster"]
    devices = subjects.count("device")
    assert subjects == [
        *("olla", "torch", *["device"] * devices, "core", "memory", "disk", "server"),
        *("hub package", "hub hf"),
    ]
    assert f"olla {__version__} answers at http://{daemon.address}" in done.stdout
    assert ("note", "hub hf") in rows
    assert "\x1b" not in done.stdout


def test_what_is_broken_is_named_and_the_rest_is_checked(olla: Olla, tmp_path: Path) -> None:
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "torch.py").write_text("raise ImportError('libfoo.so is missing')\n")

    done = olla("doctor", PYTHONPATH=f"{folder}:{ROOT}", **NO_NETWORK)

    assert done.returncode == 1
    assert done.stderr == "Error: not in order: torch\n"
    broken = next(line for line in done.stdout.splitlines() if line.startswith("BROKEN"))
    assert "ImportError: libfoo.so is missing; install olla again" in broken
    assert "hub hf" in done.stdout
