"""`olla du`, `verify`, `gc`, `export` and `import`: what they ask, show and leave on the disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from olla.names import ModelName
from olla.registry.archive import archive_of
from olla.registry.manifest import MediaType
from olla.registry.store import ModelStore
from tests.cli.conftest import Olla
from tests.cli.fake_daemon import FakeDaemon, Reply, failed
from tests.registry.models import GGUF, put_model

USAGE = {
    "models": [
        {"model": "small:latest", "size": 1_000_000, "freed": 1_000_000},
        {"model": "large:latest", "size": 98_000_000, "freed": 0},
    ],
    "shared": [
        {"digest": f"sha256:{'b' * 64}", "size": 98_000_000, "models": ["copy:1", "large:latest"]}
    ],
    "total": 99_000_000,
    "unused": 5_000,
}


def test_du(olla: Olla, daemon: FakeDaemon) -> None:
    daemon.script("GET /api/du", Reply([USAGE]))

    assert [line.split("  ")[0] for line in olla("du").stdout.splitlines()] == [
        *("NAME", "large:latest", "small:latest", "", "SHARED BLOB", "bbbbbbbbbbbb", ""),
        "99 MB in all, each blob counted once",
        "5 KB that no model needs (olla gc)",
    ]


def test_du_of_an_empty_store(olla: Olla, daemon: FakeDaemon) -> None:
    empty = {"models": [], "shared": [], "total": 0, "unused": 0}
    daemon.script("GET /api/du", Reply([empty]))

    done = olla("du")

    assert (done.returncode, "SHARED" in done.stdout) == (0, False)


def test_verify_names_the_models_and_ends_with_the_verdict(olla: Olla, daemon: FakeDaemon) -> None:
    daemon.script(
        "POST /api/verify",
        Reply([{"status": "a:latest is broken: its model is missing"}, {"error": "1 of 2"}]),
    )

    done = olla("verify", "a", "b")

    assert daemon.requests[-1].json == {"models": ["a", "b"]}
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, "Error: 1 of 2")
    assert "a:latest is broken" in done.stderr


@pytest.mark.parametrize(
    ("flags", "body", "last"),
    [
        ((), {"dry_run": False, "all": False}, "8 B freed"),
        (("--dry-run", "--all"), {"dry_run": True, "all": True}, "8 B would be freed"),
    ],
)
def test_gc(
    olla: Olla, daemon: FakeDaemon, flags: tuple[str, ...], body: dict[str, bool], last: str
) -> None:
    reply = {"removed": [{"file": "sha256-aa-partial", "size": 8}], "freed": 8}
    daemon.script("POST /api/gc", Reply([reply]))

    lines = olla("gc", *flags).stdout.splitlines()

    assert daemon.requests[-1].json == body
    assert lines[1].split() == ["sha256-aa-partial", "8", "B"]
    assert lines[-1] == last


def test_export_writes_the_file_when_all_of_it_is_there(
    olla: Olla, daemon: FakeDaemon, tmp_path: Path
) -> None:
    daemon.script("GET /api/export?model=me%2Fm%3Av1", Reply(raw=b"a tar"))

    assert olla("export", "me/m:v1", "m.tar").returncode == 0
    assert (tmp_path / "m.tar").read_bytes() == b"a tar"
    assert [path.name for path in tmp_path.iterdir() if "m.tar" in path.name] == ["m.tar"]


def test_an_export_that_fails_leaves_what_was_there(
    olla: Olla, daemon: FakeDaemon, tmp_path: Path
) -> None:
    (tmp_path / "m.tar").write_bytes(b"older")
    daemon.script("GET /api/export?model=m", failed(404, "model 'm' not found"))

    done = olla("export", "m", "m.tar")

    assert (done.returncode, done.stderr) == (1, "Error: model 'm' not found\n")
    assert (tmp_path / "m.tar").read_bytes() == b"older"
    assert not (tmp_path / "m.tar.part").exists()


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    store = ModelStore(tmp_path / "elsewhere")
    name = ModelName.parse("me/tiny:v1")
    put_model(store, name.short, (MediaType.MODEL, GGUF))
    path = tmp_path / "tiny.tar"
    archive = archive_of(name, store.read_manifest(name), store.blobs)
    path.write_bytes(b"".join(archive.chunks()))
    return path


@pytest.mark.parametrize(("more", "name"), [((), "me/tiny:v1"), (("other",), "other")])
def test_import_uploads_what_the_daemon_lacks_and_then_the_manifest(
    olla: Olla, daemon: FakeDaemon, exported: Path, more: tuple[str, ...], name: str
) -> None:
    def missing_then_taken(method: str, path: str) -> None:
        daemon.script(f"{method} {path}", Reply(status=404 if method == "HEAD" else 201))

    from olla.client.archive import open_archive

    with open_archive(exported) as archive:
        blobs = archive.blobs
    for blob in blobs:
        missing_then_taken("HEAD", f"/api/blobs/{blob.digest}")
        missing_then_taken("POST", f"/api/blobs/{blob.digest}")
    daemon.script("POST /api/import", Reply([{"status": "success", "model": "stored:latest"}]))

    done = olla("import", str(exported), *more)

    assert (done.returncode, done.stdout) == (0, "imported 'stored:latest'\n")
    assert daemon.requests[-1].json["model"] == name
    uploads = [r.body for r in daemon.requests if r.method == "POST"][:-1]
    assert GGUF in uploads


def test_an_archive_that_is_none_is_refused_before_anything_is_sent(
    olla: Olla, daemon: FakeDaemon, tmp_path: Path
) -> None:
    (tmp_path / "x.tar").write_bytes(b"GGUF" * 1000)

    done = olla("import", "x.tar")

    assert done.returncode == 1
    assert done.stderr.startswith("Error: cannot import x.tar: it is no archive of a model")
    assert daemon.requests == []


def test_what_the_daemon_refuses_names_the_file(
    olla: Olla, daemon: FakeDaemon, exported: Path
) -> None:
    done = olla("import", str(exported))

    assert done.stderr.splitlines()[-1].startswith(f"Error: cannot import {exported}: ")


def test_a_file_that_is_not_there(olla: Olla, daemon: FakeDaemon) -> None:
    assert olla("import", "none.tar").stderr == "Error: none.tar: No such file or directory\n"
