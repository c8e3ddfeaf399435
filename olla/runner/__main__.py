"""`python -m olla.runner`: the child, whose imports (torch above all) are most of its start."""

from __future__ import annotations

import os

from olla.quick_imports import quick_imports

with quick_imports():
    from olla.runner.child import main

if __name__ == "__main__":
    # Not sys.exit: a thread may sit in a read of stdin, which the interpreter's end would wait on.
    os._exit(main())
