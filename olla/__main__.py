"""`python -m olla`: the command line, and how the daemon is started in the background."""

from __future__ import annotations

import sys

from olla.cli import main

if __name__ == "__main__":
    sys.exit(main())
