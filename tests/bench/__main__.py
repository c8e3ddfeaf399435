"""`make bench`: olla beside llama.cpp and `transformers serve`, on the same files and threads.

    python -m tests.bench [--quick] [--only PART,...] [--models MODEL,...]

A full run puts its tables into docs/benchmarks.md; a part of it only prints.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from olla.cli.figures import prompt_of
from olla.engine.native.library import find_library
from tests.bench import adapters, fidelity, models, peers, speculation, startup
from tests.bench.report import (
    Aim,
    Comparison,
    Measure,
    comparison_table,
    measure_table,
    replace_figures,
)
from tests.bench.work import HISTORY_WORDS, WORKS, Referee, Samples

PAGE = peers.ROOT / "docs" / "benchmarks.md"
PARTS = (
    "startup", "memory", "prefill", "decode", "decode8", "chat", "fidelity", "adapters",
    "speculation",
)  # fmt: skip
ENGINE_ALONE = ("smollm2-q4", "llama1b-q8")
AIMS = {
    ("prefill", "smollm2-q4", "llama.cpp"): Aim(3),
    ("prefill", "smollm2-q8", "llama.cpp"): Aim(2),
    ("prefill", "llama1b-q4", "llama.cpp"): Aim(1.6),
    ("prefill", "llama1b-q8", "llama.cpp"): Aim(2.5),
    ("decode", "smollm2-q4", "llama.cpp"): Aim(2.2),
    ("decode", "smollm2-q8", "llama.cpp"): Aim(1.2),
    ("decode", "llama1b-q4", "llama.cpp"): Aim(1.0),
    ("decode", "llama1b-q8", "llama.cpp"): Aim(1.2),
    ("decode", "smollm2-q4", "transformers serve"): Aim(4),
    ("decode", "smollm2-q4", "the engine alone"): Aim(0.9),
    ("decode", "llama1b-q8", "the engine alone"): Aim(0.95),
    **{("decode8", name, "llama.cpp"): Aim(1.8) for name in models.GGUF_FILES},
    ("decode8", "smollm2-q4", "the engine alone"): Aim(0.9),
    ("decode8", "llama1b-q8", "the engine alone"): Aim(0.9),
}
"""design.md section 5, with the compiled core."""
MAX_IDLE_SHARE = 0.05


@dataclass
class Run:
    """What one run has found so far."""

    parts: tuple[str, ...]
    models: tuple[str, ...]
    num_rounds: int
    threads: int
    comparisons: list[Comparison] = field(default_factory=list)
    measures: list[Measure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    fidelity: str = ""

    def text(self, command: str, took_s: float) -> str:
        tables = [f"`{command}`, {machine()}, {self.threads} threads each,"]
        tables.append(f"median of {self.num_rounds} rounds (lowest to highest), {took_s:.0f} s.\n")
        if self.comparisons:
            tables.append(comparison_table(self.comparisons))
        if self.measures:
            tables.append(measure_table(self.measures))
        if self.fidelity:
            tables.append(f"SmolLM2's files on a fixed text:\n\n{self.fidelity}")
        tables += [f"- {note}" for note in sorted(set(self.notes))]
        return "\n".join(tables)


def measure_model(run: Run, name: str) -> None:
    file = models.GGUF_FILES[name]()
    with ExitStack() as stack:
        others: list[peers.Peer] = []
        ours = stack.enter_context(peers.olla(name, file, run.threads))
        if "memory" in run.parts:
            run.measures += loaded_memory(name, ours)
        others.append(stack.enter_context(peers.llama_cpp(file, run.threads)))
        if name == "smollm2-q4":
            folder = models.smollm2_folder()
            others.append(stack.enter_context(peers.transformers_serve(folder, run.threads)))
        if name in ENGINE_ALONE:
            others.append(stack.enter_context(peers.engine_alone(file, run.threads)))
        referee = Referee([ours, *others], run.num_rounds)
        compare(run, name, referee)
        if "memory" in run.parts:
            run.measures += server_memory(name, [ours, *others])
    run.notes += referee.notes
    for peer, share in referee.busy.items():
        if share > MAX_IDLE_SHARE:
            run.notes.append(f"{peer} used {share:.0%} of a CPU at most while others were asked")


def compare(run: Run, name: str, referee: Referee) -> None:
    for work in WORKS:
        if work.key in run.parts:
            samples = referee.measure(work, name)
            run.comparisons += comparisons(name, work.key, work.title, "tok/s", samples)
            print(comparison_table(run.comparisons[-len(samples) + 1 :]), flush=True)
    if "chat" in run.parts and name == "smollm2-q4":
        samples = referee.second_turns(name)
        title = f"second turn after {HISTORY_WORDS:,} tokens: first token"
        run.comparisons += comparisons(name, "chat", title, "parts of the first turn's", samples)
        aim = Aim(0.1, is_at_most=True)
        run.measures.append(Measure(name, title, "parts of the first turn's", samples["olla"], aim))


def comparisons(
    model: str, key: str, title: str, unit: str, samples: Samples
) -> Iterator[Comparison]:
    ours = samples["olla"]
    for peer, theirs in samples.items():
        if peer != "olla":
            aim = AIMS.get((key, model, peer))
            yield Comparison(model, title, unit, peer, ours, theirs, aim)


def loaded_memory(name: str, ours: peers.HttpPeer) -> Iterator[Measure]:
    """Of the runner, when it has loaded and has answered once."""
    ours.ask([prompt_of(16, 0)], 2)
    runner = ours.process.children()[0]
    peak, now = peers.peak_bytes(runner), runner.memory_info().rss
    yield Measure(name, "runner, resident once loaded", "MB", (now / 1e6,))
    yield Measure(
        name, "runner, peak while loading", "of that", (peak / now,), Aim(1.3, is_at_most=True)
    )


def server_memory(name: str, all_peers: list[peers.Peer]) -> Iterator[Measure]:
    for peer in all_peers:
        used = peers.resident_bytes(peer.process) / 1e6
        yield Measure(name, f"{peer.name}, all processes after the work", "MB", (used,))


def machine() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    cpu = next((line.split(": ")[1] for line in lines if line.startswith("model name")), "")
    core = find_library()
    name = core.stem if core else "without the core"
    return f"{platform.system()} {cpu or platform.machine()}, {name}, commit {startup.commit()}"


def num_cpus() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench ARGS=...", description="See docs/benchmarks.")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, and SmolLM2 only")
    parser.add_argument("--only", type=words_of(PARTS), default=PARTS, metavar="PART,...")
    parser.add_argument("--models", type=words_of(tuple(models.GGUF_FILES)), metavar="MODEL,...")
    parser.add_argument("--rounds", type=int, help="default 5, quick 2")
    parser.add_argument("--threads", type=int, default=num_cpus(), help="default: every CPU")
    return parser.parse_args()


def words_of(known: tuple[str, ...]) -> Callable[[str], tuple[str, ...]]:
    """Reads words with commas between; the beginning of a model's name stands for all such."""

    def read(text: str) -> tuple[str, ...]:
        wanted = tuple(text.split(","))
        for word in wanted:
            if not any(name.startswith(word) for name in known):
                raise argparse.ArgumentTypeError(f"{word}: not one of {', '.join(known)}")
        exact = [name for name in known if name in wanted]
        return tuple(exact) or tuple(n for n in known if n.startswith(wanted))

    return read


def main() -> None:
    arguments = read_arguments()
    quick = [name for name in models.GGUF_FILES if name.startswith("smollm2")]
    run = Run(
        parts=arguments.only,
        models=arguments.models or tuple(quick if arguments.quick else models.GGUF_FILES),
        num_rounds=arguments.rounds or (2 if arguments.quick else 5),
        threads=arguments.threads,
    )
    start_s = time.monotonic()
    if "startup" in run.parts:
        run.measures += startup.measures(run.num_rounds)
    if "adapters" in run.parts:
        for found in adapters.measure(run.threads, run.num_rounds):
            if isinstance(found, Measure):
                run.measures.append(found)
            else:
                run.comparisons.append(found)
    if "speculation" in run.parts:
        run.comparisons += speculation.measure(run.models, run.threads, run.num_rounds)
    if "fidelity" in run.parts:
        run.fidelity = fidelity.measure()
    if set(run.parts) - {"startup", "fidelity", "adapters", "speculation"}:
        for name in run.models:
            measure_model(run, name)
    text = run.text("make bench", time.monotonic() - start_s)
    print(text)
    if not (arguments.quick or arguments.models or set(PARTS) - set(run.parts)):
        PAGE.write_text(replace_figures(PAGE.read_text(encoding="utf-8"), text), encoding="utf-8")


if __name__ == "__main__":
    main()
