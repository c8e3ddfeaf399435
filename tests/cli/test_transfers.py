"""`olla pull` and `olla push` without a terminal: options, plans, places, errors."""

from __future__ import annotations

import pytest

from olla.cli.transfers import place_of
from tests.cli.conftest import Olla
from tests.cli.fake_daemon import FakeDaemon, Reply

SUCCESS = Reply([{"status": "success"}])


@pytest.mark.parametrize(
    ("text", "rate"),
    [("100", 100), ("500K", 500_000), ("10M", 10_000_000), ("1.5g", 1_500_000_000), ("2MB/s", 2e6)],
)
def test_a_rate_is_in_bytes_a_second(olla: Olla, daemon: FakeDaemon, text: str, rate: int) -> None:
    daemon.script("POST /api/pull", SUCCESS)

    assert olla("pull", "m", "--limit-rate", text).returncode == 0
    assert daemon.requests[-1].json == {"model": "m", "limit_rate": rate}


@pytest.mark.parametrize("text", ["0", "-1", "fast", "10T", "", "1e3", "٣"])
def test_what_is_no_rate_is_refused(olla: Olla, daemon: FakeDaemon, text: str) -> None:
    done = olla("pull", "m", "--limit-rate", text)

    assert done.returncode == 1
    assert 'write bytes a second, such as "500K" or "10M"' in done.stderr


def test_a_dry_run_tells_what_is_there_and_what_is_not(olla: Olla, daemon: FakeDaemon) -> None:
    daemon.script(
        "POST /api/pull",
        Reply(
            [
                {"status": "pulling manifest"},
                {"status": "would pull aaa", "digest": "sha256:aaa", "total": 2_000_000_000},
                {
                    "status": "would pull bbb",
                    "digest": "sha256:bbb",
                    "total": 3_000_000,
                    "completed": 1_000_000,
                },
                {"status": "have ccc", "digest": "sha256:ccc", "total": 100, "completed": 100},
                {"status": "success"},
            ]
        ),
    )

    done = olla("pull", "m", "--dry-run")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "BLOB    SIZE     STATE\n"
        "aaa     2 GB     to pull\n"
        "bbb     3 MB     1 MB here\n"
        "ccc     100 B    here\n"
        "\n"
        "2.0 GB to pull, 1.0 MB here already\n"
    )
    assert daemon.requests[-1].json == {"model": "m", "dry_run": True}


def test_push_says_where_the_model_is(olla: Olla, daemon: FakeDaemon) -> None:
    steps = [{"status": "retrieving manifest"}, {"status": "success"}]
    daemon.script("POST /api/push", Reply(steps))

    done = olla("push", "me/m", "--insecure")

    assert done.returncode == 0
    assert done.stderr == "retrieving manifest\nsuccess\n"
    assert done.stdout == "\nYou can find your model at:\n\n\thttps://ollama.com/me/m\n"
    assert daemon.requests[-1].json == {"model": "me/m", "insecure": True}


def test_push_goes_to_another_name(olla: Olla, daemon: FakeDaemon) -> None:
    daemon.script("POST /api/push", Reply([{"status": "success"}]))

    done = olla("push", "m", "hf.co/me/m", "--private")

    assert done.stdout.endswith("\thttps://huggingface.co/me/m\n")
    body = {"model": "m", "private": True, "destination": "hf.co/me/m"}
    assert daemon.requests[-1].json == body


@pytest.mark.parametrize(
    ("model", "place"),
    [
        ("m", "https://ollama.com/m"),
        ("me/m:q4", "https://ollama.com/me/m:q4"),
        ("localhost:5000/me/m", "localhost:5000/me/m:latest"),
        ("hf.co/me/m:v2", "https://huggingface.co/me/m"),
    ],
)
def test_the_place_of_a_model(model: str, place: str) -> None:
    assert place_of(model) == place


def test_who_may_not_push_hears_what_to_do(olla: Olla, daemon: FakeDaemon) -> None:
    refused = Reply([{"error": "unauthorized: access denied"}])
    daemon.script("POST /api/push", refused, refused)

    ours, theirs = olla("push", "me/m"), olla("push", "localhost:5000/me/m")

    assert ours.stderr == (
        "Error: you are not authorized to push to this namespace, create the model under a "
        "namespace you own\n"
    )
    assert theirs.stderr.startswith("Error: localhost:5000 wants a login, which belongs in ")
    assert (ours.returncode, theirs.returncode) == (1, 1)
