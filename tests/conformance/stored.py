"""What lies in a daemon's store, read from disk without olla's own code."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from tests.conformance.daemon import Answer, Daemon

_DIGEST = re.compile(rb"sha256:([0-9a-f]{64})")


def tree(models: Path) -> dict[str, int]:
    """Every file among the manifests and the blobs, with its size."""
    return {
        str(path.relative_to(models)): path.stat().st_size
        for part in ("manifests", "blobs")
        for path in (models / part).rglob("*")
        if path.is_file()
    }


def faults(models: Path) -> list[str]:
    """What a valid store has none of: blobs that do not hash to their names, or that lack."""
    blobs = sorted((models / "blobs").glob("sha256-" + "[0-9a-f]" * 64))
    wrong = [f"{path.name} is not what its name says" for path in blobs if not _is_whole(path)]
    names = {path.name for path in blobs}
    manifests = [path for path in (models / "manifests").rglob("[!.]*") if path.is_file()]
    lacking = [
        f"{path} needs {name}"
        for path in manifests
        for name in _blob_names(path.read_bytes())
        if name not in names
    ]
    return wrong + lacking


class Store:
    """A daemon's store, for a test after which nothing but its uploads may have changed."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self.uploads: set[str] = set()

    def upload(self, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        answer = self._daemon.ask("POST", f"/api/blobs/sha256:{digest}", data)
        assert answer.status in {200, 201}, answer
        self.uploads.add(f"blobs/sha256-{digest}")
        return f"sha256:{digest}"

    def create(self, **fields: object) -> Answer:
        """Ask for a model; not streamed, so that an error has its status."""
        body = {"model": "bad", "stream": False, **fields}
        return self._daemon.ask("POST", "/api/create", body)

    def files(self) -> dict[str, int]:
        found = tree(self._daemon.models)
        return {name: size for name, size in found.items() if name not in self.uploads}


def _is_whole(path: Path) -> bool:
    with path.open("rb") as file:
        return path.name == f"sha256-{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _blob_names(manifest: bytes) -> list[str]:
    return [f"sha256-{match.decode()}" for match in _DIGEST.findall(manifest)]
