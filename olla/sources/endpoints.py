"""Where each source looks, told by its own client: `python -m olla.sources.endpoints hf package`.

Prints a line of JSON. `olla doctor` runs it in a process of its own, since no command imports the
clients, and only they know all the variables and files that their users set them up with.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress

from olla.names import DEFAULT_HOST

_PYPI = "https://pypi.org/simple"
_INDEX_KEYS = (":env:.index-url", "download.index-url", "global.index-url")  # the first one wins


def huggingface() -> str:
    from olla.sources.huggingface import endpoint  # noqa: PLC0415

    return endpoint()


def modelscope() -> str:
    from olla.sources.modelscope import endpoint  # noqa: PLC0415

    return endpoint()


def package_index() -> str:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    )
    return index_of(done.stdout)


def index_of(pip_config: str) -> str:
    """The index in what `pip config list` says."""
    values: dict[str, str] = {}
    for line in pip_config.splitlines():
        key, _, text = line.partition("=")
        with suppress(ValueError, SyntaxError):
            values[key] = str(ast.literal_eval(text))
    return next((values[key] for key in _INDEX_KEYS if key in values), _PYPI)


ENDPOINTS: Mapping[str, Callable[[], str]] = {
    "package": package_index,
    "ollama": lambda: f"https://{DEFAULT_HOST}",
    "hf": huggingface,
    "modelscope": modelscope,
}
"""What OLLA_SOURCES calls each source, and how to ask where it looks."""


if __name__ == "__main__":
    print(json.dumps({label: ENDPOINTS[label]() for label in sys.argv[1:]}))  # noqa: T201
