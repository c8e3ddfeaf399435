"""Build hook: compiles olla's CPU core, once for each instruction set that this machine's kind has.

Without a compiler nothing is built, and olla computes with torch's own kernels. `CXX` names the
compiler, with options if need be. A library is built anew only when its sources changed.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FLAGS = [
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-shared",
    "-pthread",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=fast",
    "-Wno-psabi",
]
X86, ARM = ("x86_64", "amd64"), ("aarch64", "arm64")
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
AVX512 = [*(f"-mavx512{name}" for name in ("f", "bw", "dq", "vl", "vnni"))]
ALL = {
    "core_portable.so": ((), []),
    "core_avx2.so": (X86, AVX2),
    "core_avxvnni.so": (X86, [*AVX2, "-mavxvnni"]),
    "core_avx512.so": (X86, [*AVX2, *AVX512, "-mprefer-vector-width=512"]),
    "core_neon.so": (ARM, ["-march=armv8.2-a+dotprod"]),
}
"""The machines that each library is for, all if none is named; what it uses of processors."""
VARIANTS = {
    name: flags
    for name, (machines, flags) in ALL.items()
    if not machines or platform.machine().lower() in machines
}
"""Those to build here; which of them runs is found out when it is loaded."""


class CoreBuildHook(BuildHookInterface[Any]):
    """Puts the libraries beside their sources, and into the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        folder = Path(self.root) / "olla" / "engine" / "native"
        compiler = find_compiler()
        if sys.platform == "win32" or not compiler:
            self.app.display_warning("no C++ compiler: olla will compute with torch's kernels only")
            return
        with ThreadPoolExecutor() as threads:
            done = list(threads.map(lambda name: build(compiler, folder, name), VARIANTS))
        built = [name for name, is_built in zip(VARIANTS, done, strict=True) if is_built]
        if len(built) < len(VARIANTS):
            self.app.display_warning(f"{compiler} built {built} of {list(VARIANTS)}")
        if built:
            build_data["pure_python"] = False
            system = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["tag"] = f"py3-none-{system}"  # it is reached through ctypes
            build_data["artifacts"] += [f"/olla/engine/native/{name}" for name in built]


def find_compiler() -> str | None:
    return os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")


def build(compiler: str, folder: Path, name: str) -> bool:
    """Compile one library if it is older than its sources; whether there is one now."""
    target = folder / name
    newest = max(path.stat().st_mtime for path in folder.glob("*.[hc]*"))
    if target.exists() and target.stat().st_mtime >= newest:
        return True
    partial = target.with_suffix(".partial")
    command = [*shlex.split(compiler), *FLAGS, *VARIANTS[name]]
    if not shutil.which(command[0]):
        return False
    output = [str(folder / "core.cpp"), "-o", str(partial)]
    if subprocess.run([*command, *output], check=False).returncode != 0:
        return False
    partial.replace(target)
    return True
