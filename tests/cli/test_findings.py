"""What `olla doctor` finds, check by check."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from olla import __version__
from olla.address import Address
from olla.cli.findings import (
    Finding,
    Health,
    find_disk,
    find_engine,
    find_hubs,
    find_server,
    hints,
    hub_addresses,
)
from olla.settings import Settings
from tests.cli.fake_daemon import FakeDaemon, Reply, failed

GPU = {"name": "Fast", "free_bytes": 8_000_000_000, "total_bytes": 24_000_000_000}
SURVEY = {
    "torch": "2.13.0",
    "platform": "",
    "cpu": "AVX2",
    "threads": 4,
    "gpus": [],
    "core": "core_avx2",
    "core_error": "",
    "available_bytes": 8_000_000_000,
    "has_bitsandbytes": False,
}


def settings_at(address: str, **more: str) -> Settings:
    return Settings.from_env({"OLLA_HOST": address, "OLLA_HOME": "/nowhere", **more})


def found(survey: dict[str, object], subject: str) -> list[Finding]:
    return [finding for finding in find_engine(survey) if finding.subject == subject]


def test_the_engine_of_a_cpu() -> None:
    assert [(finding.health, finding.text) for finding in find_engine(SURVEY)] == [
        (Health.OK, "2.13.0, for CPUs only"),
        (Health.OK, "cpu: AVX2, 4 threads"),
        (Health.OK, "compiled, core_avx2"),
        (Health.OK, "8 GB available"),
    ]


def test_each_gpu_is_a_device() -> None:
    devices = found({**SURVEY, "platform": "CUDA 12.8", "gpus": [GPU, GPU]}, "device")

    assert [finding.text for finding in devices[1:]] == [
        "cuda:0: Fast, 8 GB of 24 GB free",
        "cuda:1: Fast, 8 GB of 24 GB free",
    ]


@pytest.mark.parametrize(
    ("change", "subject", "health"),
    [
        ({"core": ""}, "core", Health.NOTE),
        ({"core_error": "wrong ELF class"}, "core", Health.NOTE),
        ({"available_bytes": 100}, "memory", Health.NOTE),
    ],
)
def test_what_is_wrong_with_an_engine(
    change: dict[str, object], subject: str, health: Health
) -> None:
    assert found({**SURVEY, **change}, subject)[0].health is health


def test_what_computes_in_the_place_of_a_core_that_does_not_load_is_named() -> None:
    broken = {**SURVEY, "core_error": "wrong ELF class"}

    assert found(broken, "core")[0].text.startswith("wrong ELF class; core_avx2 is used instead")
    assert "torch is used instead" in found({**broken, "core": ""}, "core")[0].text


def test_the_disk_is_measured_where_the_store_will_be(tmp_path: Path) -> None:
    (finding,) = find_disk(tmp_path / "a" / "b")

    assert finding.text.endswith(f" free for {tmp_path}/a/b")


def test_a_store_that_cannot_be_written_is_broken(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    (finding,) = find_disk(tmp_path / "file")

    assert finding.health is Health.BROKEN


@pytest.mark.parametrize(
    ("versions", "health", "text"),
    [
        ({"version": "0.9", "olla": __version__}, Health.OK, f"olla {__version__} answers"),
        ({"version": "0.9", "olla": "0.0.1"}, Health.NOTE, "makes room for"),
        ({"version": "0.9"}, Health.NOTE, "another server, with version 0.9"),
    ],
)
def test_who_answers(
    daemon: FakeDaemon, versions: dict[str, str], health: Health, text: str
) -> None:
    daemon.script("GET /api/version", Reply([versions]))

    (finding,) = find_server(settings_at(daemon.address))

    assert finding.health is health
    assert text in finding.text


def test_what_speaks_another_language_is_broken(daemon: FakeDaemon) -> None:
    daemon.script("GET /api/version", failed(404, "what?"))

    (finding,) = find_server(settings_at(daemon.address))

    assert finding.health is Health.BROKEN
    assert "is not olla: what?; set OLLA_HOST to another port" in finding.text


def test_a_free_port_is_in_order_and_one_out_of_reach_is_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

    (free,) = find_server(settings_at(f"127.0.0.1:{port}"))
    (remote,) = find_server(settings_at("http://192.0.2.1.invalid:1"))

    assert (free.health, remote.health) == (Health.OK, Health.BROKEN)
    assert free.text == f"not running, port {port} is free; commands start it"


def test_a_port_that_is_bound_and_does_not_listen_is_broken() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        port = holder.getsockname()[1]

        (finding,) = find_server(settings_at(f"127.0.0.1:{port}"))

    assert finding.health is Health.BROKEN
    assert f"port {port} cannot be used: Address already in use" in finding.text


def test_a_hub_that_answers_anything_is_in_reach(daemon: FakeDaemon) -> None:
    url = Address.parse(daemon.address).url

    findings = find_hubs({"hf": url, "ollama": f"{url}/missing", "package": "http://127.0.0.1:9"})

    assert [(finding.subject, finding.health) for finding in findings] == [
        ("hub hf", Health.OK),
        ("hub ollama", Health.OK),
        ("hub package", Health.NOTE),
    ]


def test_hubs_are_where_their_clients_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://hf.example.com/")
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "http://ms.example.com")
    monkeypatch.setenv("PIP_INDEX_URL", "http://me:secret@pip.example.com:8080/simple")

    assert hub_addresses(("hf", "modelscope", "package", "ollama")) == {
        "hf": "http://hf.example.com",
        "modelscope": "http://ms.example.com",
        "package": "http://pip.example.com:8080/simple",
        "ollama": "https://registry.ollama.ai",
    }


def test_hubs_that_nobody_can_tell_of_are_one_finding() -> None:
    addresses = hub_addresses(("unknown",))

    assert list(find_hubs(addresses)) == [
        Finding("hubs", Health.BROKEN, "KeyError: 'unknown'; install olla again")
    ]


@pytest.mark.parametrize(
    ("change", "environ", "hint"),
    [
        ({"gpus": [GPU]}, {}, "pip install 'olla[cuda]'"),
        ({"gpus": [GPU]}, {"OLLA_DEVICE": "cpu"}, "leaves the GPU idle"),
        ({"core": ""}, {}, "install a C++ compiler"),
        ({}, {"OLLA_NUM_THREADS": "1"}, "OLLA_NUM_THREADS=1 leaves cores idle"),
        ({}, {}, "OLLA_QUANTIZE=int8"),
    ],
)
def test_hints(
    change: dict[str, object], environ: dict[str, str], hint: str, tmp_path: Path
) -> None:
    settings = settings_at("", **environ)

    assert any(hint in text for text in hints({**SURVEY, **change}, settings, tmp_path))


def test_a_gpu_that_torch_cannot_use_is_a_hint(tmp_path: Path) -> None:
    (tmp_path / "nvidia0").touch()

    texts = list(hints(SURVEY, settings_at(""), tmp_path))

    assert texts[0] == "there is an NVIDIA GPU that torch cannot use: install torch built for CUDA"


def test_a_machine_at_its_best_gets_no_hint(tmp_path: Path) -> None:
    survey = {**SURVEY, "gpus": [GPU], "has_bitsandbytes": True}

    assert list(hints(survey, settings_at(""), tmp_path)) == []
