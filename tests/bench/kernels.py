"""`make bench-kernels`: rates of the compiled core's kernels by rows.

A product of few rows is as fast as its weights come from memory, one of many as fast as the CPU
multiplies. So beside each rate stands what it is of the machine's own: of the bandwidth of reading
memory, which is measured by adding it up, and of the products from registers that the same variant
manages. Time is that of the CPUs, the best round counts, and one thread is the default: what else
runs on the machine takes least from that.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from ctypes import c_float, c_int32, c_void_p
from dataclasses import dataclass
from pathlib import Path

import torch

from olla.engine.native.library import Core, Kind, find_libraries
from olla.engine.native.packed import Packed, Part

ROWS = (1, 2, 4, 8, 16, 64, 512)
SHAPE = (8192, 8192)  # more than any cache holds
LANES = {"avx512": 16, "neon": 4}
CHAINS = 12  # vectors that olla_peak multiplies in a round
_PORTABLE_ROWS = (1, 8)
_ROUNDS = 3
_ROUND_S = 0.1


@dataclass(frozen=True, slots=True)
class Machine:
    """Bytes a second of memory, and products a second of a variant."""

    copy: float
    read: float
    floats: float
    integers: float


def seconds(work: Callable[[], object], threads: int) -> float:
    """The time of one call on so many threads."""
    work()
    times = []
    for _ in range(_ROUNDS):
        count, start = 0, time.process_time()
        while (took := time.process_time() - start) < _ROUND_S * threads:
            work()
            count += 1
        times.append(took / count / threads)
    return min(times)


def survey(core: Core) -> Machine:
    bytes_ = torch.ones(2**28, dtype=torch.uint8)
    other = torch.empty_like(bytes_)
    words = bytes_.view(torch.int64)
    return Machine(
        2 * bytes_.nbytes / seconds(lambda: other.copy_(bytes_), core.num_threads),
        bytes_.nbytes / seconds(words.sum, core.num_threads),
        peak(core, of_floats=True),
        peak(core, of_floats=False),
    )


def peak(core: Core, *, of_floats: bool) -> float:
    function = core.library.olla_peak
    function.restype, function.argtypes = c_float, [c_void_p, c_int32, c_int32]
    count = 100_000
    lanes = LANES.get(core.name.removeprefix("core_"), 8)
    products = count * CHAINS * lanes * (1 if of_floats else 4) * core.num_threads
    return products / seconds(lambda: function(core.handle, count, of_floats), core.num_threads)


def matrix(core: Core, kind: Kind) -> Packed:
    """Random bytes: what they stand for does not matter, but that floats are finite."""
    rows, columns = SHAPE
    size = core.part_bytes(kind, rows, columns)
    data = torch.randint(0, 60, (size,), dtype=torch.uint8)
    return Packed(core, [Part(kind, rows, data)], columns)


def lines(core: Core, machine: Machine, kinds: list[Kind]) -> list[str]:
    found = []
    rows = _PORTABLE_ROWS if core.name == "core_portable" else ROWS
    for kind in kinds:
        weights = matrix(core, kind)
        for count in rows:
            inputs = torch.randn(count, SHAPE[1])
            took_s = seconds(lambda: weights.multiply(inputs), core.num_threads)  # noqa: B023
            bytes_s = weights.num_bytes / took_s
            products_s = count * SHAPE[0] * SHAPE[1] / took_s
            most = machine.integers if kind <= Kind.Q8 else machine.floats
            found.append(
                f"| {core.name.removeprefix('core_')} | {kind.name} | {count} "
                f"| {bytes_s / 1e9:.1f} | {bytes_s / machine.read:.0%} "
                f"| {2 * products_s / 1e9:.0f} | {products_s / most:.0%} |"
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--kinds", default=",".join(kind.name for kind in Kind))
    parser.add_argument("--variants", default="")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    wanted = [name for name in arguments.variants.split(",") if name]
    kinds = [Kind[name] for name in arguments.kinds.split(",")]
    for path in find_libraries():
        if not wanted or path.stem.removeprefix("core_") in wanted:
            report(path, arguments.threads, kinds)


def report(path: Path, threads: int, kinds: list[Kind]) -> None:
    core = Core(path, threads)
    machine = survey(core)
    print(
        f"\n{core.name}, {threads} threads: memory copies at {machine.copy / 1e9:.1f} GB/s "
        f"and reads at {machine.read / 1e9:.1f} GB/s; products from registers: "
        f"{2 * machine.integers / 1e9:.0f} GOP/s of bytes, "
        f"{2 * machine.floats / 1e9:.0f} GFLOP/s of floats\n"
    )
    print("| variant | kind | rows | GB/s | of reading | GFLOP/s or GOP/s | of the peak |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    print("\n".join(lines(core, machine, kinds)), flush=True)


if __name__ == "__main__":
    main()
