"""Pages of a map are given back, and nothing is lost by that."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from olla.engine.models import hf_progress


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_dropped_pages_come_again_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"abcd" * 4096)
    shared = torch.from_file(str(path), size=16384, dtype=torch.uint8)
    _ = shared.sum()

    hf_progress.drop_pages([path])

    assert bytes(shared[:4].tolist()) == b"abcd"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_pages_that_were_written_to_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"abcd" * 4096)
    changed = torch.from_file(str(path), size=16384, dtype=torch.uint8)
    changed[0] = ord("X")

    hf_progress.drop_pages([path])

    assert bytes(changed[:4].tolist()) == b"Xbcd"
