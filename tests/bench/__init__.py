"""Measurements of the real command. They print figures and assert nothing."""

from __future__ import annotations

import os

# As runners have it (olla/runner/process.py); OpenMP reads it when torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")
