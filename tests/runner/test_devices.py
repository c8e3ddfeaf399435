"""A machine without device files has no accelerator."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from olla.runner.devices import may_have_gpu


@pytest.mark.skipif(sys.platform != "linux", reason="device files are Linux's")
@pytest.mark.parametrize(
    ("names", "expected"),
    [((), False), (("nvidiactl", "null"), False), (("nvidia0",), True), (("kfd",), True)],
)
def test_device_files_tell(tmp_path: Path, names: tuple[str, ...], expected: bool) -> None:
    for name in names:
        (tmp_path / name).touch()

    assert may_have_gpu(tmp_path) == expected
