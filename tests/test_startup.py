"""What a fresh process has imported by the time it is useful: modules, not milliseconds."""

from __future__ import annotations

import subprocess
import sys

import pytest

LOADED = "import sys, {module}; print(*sorted(sys.modules))"


def loaded_by(module: str) -> set[str]:
    """The top-level modules that a fresh Python has after importing `module`."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED.format(module=module)],
        check=True,
        capture_output=True,
        text=True,
    )
    return {name.partition(".")[0] for name in done.stdout.split()}


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        (
            "olla.cli",
            {"torch", "numpy", "transformers", "aiohttp", "asyncio", "rich", "prompt_toolkit"},
        ),
        (
            "olla.server.app",
            {
                *("torch", "numpy", "transformers", "tokenizers", "gguf", "safetensors", "peft"),
                *("cryptography", "jinja2"),
                *("huggingface_hub", "modelscope_hub"),
            },
        ),
        ("olla.runner.__main__", {"transformers", "peft", "aiohttp"}),
    ],
)
def test_what_is_slow_to_import_is_not_imported(module: str, unwanted: set[str]) -> None:
    assert not loaded_by(module) & unwanted


def test_help_is_printed_without_what_is_slow_to_import() -> None:
    code = (
        "import sys; from olla.cli import main; main(['--help']);"
        "print(*sorted(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)

    assert "Usage: olla" in done.stdout
    assert not {"torch", "aiohttp", "asyncio"} & set(done.stderr.split())
