"""Builds and runs driver.cpp, the kernels' tests that need no Python.

`python -m tests.engine.native.driver asan` runs every variant that this machine can run under the
address and undefined-behaviour sanitizers, `tsan` under the thread sanitizer; `neon` the one for
ARM under qemu's emulation. All have to compute what the portable variant computes.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import hatch_build
from olla.engine.native.library import find_libraries

SOURCE = Path(__file__).with_suffix(".cpp")
SANITIZERS = {
    "asan": ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    "tsan": ["-O1", "-g", "-fsanitize=thread"],
}
NOT_FOR_PROGRAMS = {"-fPIC", "-shared"}


def build(compiler: str, variant: str, flags: list[str], folder: Path) -> Path:
    program = folder / f"driver_{variant}"
    shared = [flag for flag in hatch_build.FLAGS if flag not in NOT_FOR_PROGRAMS]
    command = [compiler, *shared, *hatch_build.ALL[f"core_{variant}.so"][1], *flags]
    subprocess.run([*command, str(SOURCE), "-o", str(program)], check=True)
    return program


def run(program: Path, results: Path, *emulator: str) -> None:
    sys.stdout.write(f"{program.name} ")
    sys.stdout.flush()
    subprocess.run([*emulator, str(program), str(results)], check=True)


def main(kind: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run(build("c++", "portable", [], folder), folder / "results")
        if kind in SANITIZERS:
            for path in find_libraries():
                variant = path.stem.removeprefix("core_")
                run(build("c++", variant, SANITIZERS[kind], folder), folder / "results")
        else:
            program = build("aarch64-linux-gnu-g++", "neon", ["-static"], folder)
            run(program, folder / "results", "qemu-aarch64", "-cpu", "max")


if __name__ == "__main__":
    main(sys.argv[1])
