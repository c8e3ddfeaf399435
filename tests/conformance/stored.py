"""What lies in a daemon's store, read from disk without olla's own code."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

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
    blobs = sorted((models / "blobs").glob("sha256-*"))
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


def _is_whole(path: Path) -> bool:
    with path.open("rb") as file:
        return path.name == f"sha256-{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _blob_names(manifest: bytes) -> list[str]:
    return [f"sha256-{match.decode()}" for match in _DIGEST.findall(manifest)]
