"""What the engine tells about this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import torch

from olla.engine.survey import survey


def test_the_survey_is_true_of_this_process() -> None:
    found = survey()

    assert found["torch"] == torch.__version__
    assert len(found["gpus"]) == torch.cuda.device_count()
    assert found["available_bytes"] > 0
    assert found["core_error"] == ""


def test_the_survey_is_one_line_of_json() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "olla.engine.survey"],
        env=os.environ,
        capture_output=True,
        text=True,
        check=True,
    )

    assert json.loads(done.stdout).keys() == survey().keys()
