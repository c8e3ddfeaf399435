"""docs/settings.md, which `python -m olla.cli.settings_page docs/settings.md` writes from the table
of settings. A test compares the two.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from olla.variables import NOT_READ, READ_ELSEWHERE, VARIABLES

_INTRODUCTION = """\
# Settings

Written by `python -m olla.cli.settings_page docs/settings.md` from the table in `olla/variables.py`.

olla reads its settings when a command starts: from the environment, then from `config.toml` in the home. A variable
has two names: `OLLA_X` is ours and wins; `OLLAMA_X` is read so that an existing set-up goes on working. Blanks and
quotes round a value are dropped, and an empty value counts as not set.
"""

_CONFIG = """\
A switch is off for `0`, `f` and `false`, and on for any other text.

A value that cannot be used stops the command with its name and the accepted form; it is never replaced in silence.
That holds for `OLLAMA_X` too, where Ollama would log a warning and go on with the default. The one exception is
Ollama's own: a port that is no port becomes the default port.

## config.toml

`~/.olla/config.toml` (in `OLLA_HOME`, if that is set) may hold the same settings, each under its name in lower case
without `OLLA_`. The environment wins. An unknown name is an error.

```toml
host = "127.0.0.1:11434"
keep_alive = "1h"
max_loaded_models = 2
origins = ["https://chat.example.com"]
noprune = true
```
"""


def settings_text() -> str:
    """docs/settings.md."""
    table = [
        (", ".join(f"`{name}`" for name in variable.names), variable.default, variable.meaning)
        for variable in VARIABLES
    ]
    return "\n".join(
        [
            _INTRODUCTION,
            _table(("variable", "default", "meaning"), table),
            _CONFIG,
            "## Variables that libraries read\n",
            _table(("variable", "meaning"), _with_code(READ_ELSEWHERE)),
            "## Variables of Ollama that are not read\n",
            _table(("variable", "why"), _with_code(NOT_READ)),
        ]
    )


def _with_code(rows: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(", ".join(f"`{name}`" for name in names.split(", ")), why) for names, why in rows]


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(settings_text(), encoding="utf-8")
