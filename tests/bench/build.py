"""Builds the peers into .bench/, outside olla's own environment: `python -m tests.bench.build`.

transformers' server gets an environment of its own. llama.cpp comes as source in the package
llama-cpp-python and is compiled for this machine, which takes some ten minutes on two cores.
Versions are pinned in the repository's constraints.txt and in pins.txt beside this file. What is
there already is left alone.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
from pathlib import Path

from tests.bench.models import CACHE
from tests.bench.peers import LLAMA_SERVER, ROOT, TRANSFORMERS

TARGETS = ("llama-server", "llama-quantize", "llama-perplexity")
_PINS = (ROOT / "constraints.txt", Path(__file__).with_name("pins.txt"))
_SWITCHES = {
    "CMAKE_BUILD_TYPE": "Release",
    "BUILD_SHARED_LIBS": "OFF",  # so that the programs can be moved
    "GGML_NATIVE": "ON",
    "LLAMA_OPENSSL": "OFF",
    "LLAMA_BUILD_UI": "OFF",
    "LLAMA_USE_PREBUILT_UI": "OFF",
    "LLAMA_BUILD_TESTS": "OFF",
    "LLAMA_BUILD_EXAMPLES": "OFF",
    "LLAMA_BUILD_APP": "OFF",
}


def build_transformers() -> None:
    folder = TRANSFORMERS.parents[1]
    venv.create(folder, with_pip=True)
    packages = ("transformers[serving]", "torch", "cmake", "ninja")
    _pip(TRANSFORMERS.with_name("python"), "install", *packages)


def build_llama(jobs: int = 2) -> None:
    """Compile llama.cpp with the cmake of transformers' environment."""
    tools = TRANSFORMERS.parent
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = _download_llama(folder)
        switches = [f"-D{key}={value}" for key, value in _SWITCHES.items()]
        ninja = f"-DCMAKE_MAKE_PROGRAM={tools / 'ninja'}"
        build = folder / "build"
        _run(tools / "cmake", "-G", "Ninja", "-S", source, "-B", build, ninja, *switches)
        _run(tools / "cmake", "--build", build, "-j", jobs, "--target", *TARGETS)
        LLAMA_SERVER.parent.mkdir(parents=True, exist_ok=True)
        for target in TARGETS:
            shutil.copy2(build / "bin" / target, LLAMA_SERVER.with_name(target))


def _download_llama(folder: Path) -> Path:
    options = ("--no-deps", "--no-binary", "llama-cpp-python", "-d", str(folder))
    _pip(Path(sys.executable), "download", *options, "llama-cpp-python")
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return next(folder.glob("*/vendor/llama.cpp"))


def _pip(python: Path, command: str, *arguments: str) -> None:
    pins = [word for path in _PINS for word in ("-c", path)]
    _run(python, "-m", "pip", "--disable-pip-version-check", command, "-q", *pins, *arguments)


def _run(*command: object) -> None:
    subprocess.run(list(map(str, command)), check=True, stdout=sys.stderr)


def main() -> None:
    CACHE.mkdir(exist_ok=True)
    if not TRANSFORMERS.exists():
        print("building transformers' server", flush=True)
        build_transformers()
    if not all(LLAMA_SERVER.with_name(target).exists() for target in TARGETS):
        print("building llama.cpp", flush=True)
        build_llama()


if __name__ == "__main__":
    main()
