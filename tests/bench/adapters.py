"""Adapters over the 1.24 B shape, in the engine alone: what they cost in memory and time.

    python -m tests.bench.adapters [ROUNDS]

The adapters are of rank 16 over every linear, one file under many names, each read by itself.
Base and adapters are asked in turn, and medians are compared. Beside it, peft's batch of mixed
adapters, of the same shape and the same adapter, in the same rounds.
"""

from __future__ import annotations

import gc
import json
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

import psutil
import torch
from safetensors.torch import save_file

from olla.engine.engine import Engine
from olla.engine.loading import load_model
from olla.options import SamplingParams
from olla.runner.protocol import Adapter, Generate, Piece
from tests.bench.models import LLAMA_1B, Shape, llama_q4
from tests.bench.peft_peer import PeftPeer, peft_peer
from tests.bench.report import Aim, Comparison, Measure, comparison_table, measure_table

RANK = 16
NUM_ADAPTERS = 64
NUM_STREAMS = 8
_NUM_TOKENS = 24
_FEW_TOKENS = 8  # of each of very many streams
_NUM_CTX = 512


def write_adapter(folder: Path, shape: Shape) -> None:
    """A random LoRA over every linear, as peft saves it."""
    hidden, inner = shape.hidden_size, shape.intermediate_size
    heads, kv = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    sizes = {
        "self_attn.q_proj": (heads, hidden), "self_attn.k_proj": (kv, hidden),
        "self_attn.v_proj": (kv, hidden), "self_attn.o_proj": (hidden, heads),
        "mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }  # fmt: skip
    tensors = {}
    for layer in range(shape.num_layers):
        for name, (rows, columns) in sizes.items():
            prefix = f"base_model.model.model.layers.{layer}.{name}.lora"
            tensors[f"{prefix}_A.weight"] = torch.randn(RANK, columns) * 0.01
            tensors[f"{prefix}_B.weight"] = torch.randn(rows, RANK) * 0.01
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "task_type": "CAUSAL_LM",
        "target_modules": sorted({name.rpartition(".")[2] for name in sizes}),
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))


def adapters_in(folder: Path, count: int) -> list[Adapter]:
    """The same files under as many names."""
    folder.mkdir()
    write_adapter(folder, LLAMA_1B)
    names = ("adapter_config.json", "adapter_model.safetensors")
    found = []
    for number in range(count):
        paths = {name: folder / f"{number}-{name}" for name in names}
        for name, path in paths.items():
            path.symlink_to(folder / name)
        found.append(Adapter({name: str(path) for name, path in paths.items()}))
    return found


class Bench:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._next_id = 0

    def seconds(self, used: Sequence[list[Adapter]]) -> float:
        """How long one token of each stream takes, prompts left out."""
        for adapters in used:
            self._add(adapters, _NUM_TOKENS if len(used) <= NUM_STREAMS else _FEW_TOKENS)
        self._engine.step()
        started = time.perf_counter()
        steps = 0
        while self._engine.has_work:
            self._engine.step()
            steps += 1
        return (time.perf_counter() - started) / max(steps, 1)

    def first_token(self, adapters: list[Adapter]) -> float:
        started = time.perf_counter()
        self._add(adapters, num_predict=1)
        took = 0.0
        while self._engine.has_work:
            is_text = any(isinstance(message, Piece) for message in self._engine.step())
            took = took or (time.perf_counter() - started if is_text else 0.0)
        return took or time.perf_counter() - started

    def longest_gap(self, new: list[Adapter]) -> float:
        """The longest step of full streams, the one that takes a new adapter in among them."""
        for _ in range(NUM_STREAMS):
            self._add([], _NUM_TOKENS)
        request = self._request(new, 1)
        reading = threading.Thread(target=self._engine.prepare, args=(request,))
        reading.start()
        gaps = []
        has_come = False
        while self._engine.has_work:
            started = time.perf_counter()
            if not has_come and not reading.is_alive():
                self._engine.add(request, self._engine.encode("a new one", False))
                has_come = True
            self._engine.step()
            gaps.append(time.perf_counter() - started)
        reading.join()
        usual = median(gaps[1:])
        return max(gap - usual for gap in gaps[1:])

    def _add(self, adapters: list[Adapter], num_predict: int) -> None:
        request = self._request(adapters, num_predict)
        self._engine.prepare(request)
        self._engine.add(request, self._engine.encode(f"prompt number {request.id}", False))

    def _request(self, adapters: list[Adapter], num_predict: int) -> Generate:
        self._next_id += 1
        return Generate(
            id=self._next_id, prompt="", num_ctx=_NUM_CTX, adapters=adapters,
            sampling=SamplingParams(temperature=0), num_predict=num_predict,
        )  # fmt: skip


def measure(threads: int = 0, rounds: int = 3) -> Iterator[Measure | Comparison]:
    model = load_model({"model.gguf": str(llama_q4())}, "auto", "cpu", threads, lambda a, b: None)
    bench = Bench(Engine(model, _NUM_CTX * NUM_STREAMS * 2))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "many"
        adapters = adapters_in(folder, NUM_ADAPTERS + 2 * rounds)
        file_bytes = (folder / "adapter_model.safetensors").stat().st_size
        yield _memory(bench, adapters[:NUM_ADAPTERS], file_bytes)
        yield from _ratios(bench, adapters, rounds)
        yield from _waits(bench, adapters, rounds)
        with peft_peer(folder, NUM_STREAMS, threads) as peer:
            yield from _beside_peft(bench, peer, adapters, rounds)


def _memory(bench: Bench, adapters: list[Adapter], file_bytes: int) -> Measure:
    """Memory that so many take at once, in parts of their files; the cache is warm before."""
    process = psutil.Process()
    bench.seconds([[]] * len(adapters))
    gc.collect()
    before = process.memory_info().rss
    bench.seconds([[adapter] for adapter in adapters])
    gc.collect()
    grown = process.memory_info().rss - before
    what = f"memory of {len(adapters)} adapters of rank {RANK} in one batch, parts of their files"
    share = grown / (len(adapters) * file_bytes)
    return _measure(what, "", [share], Aim(1.1, is_at_most=True))


def _ratios(bench: Bench, adapters: list[Adapter], rounds: int) -> Iterator[Measure]:
    """Parts of the base's speed, the base asked before each."""
    aims = {1: Aim(0.9), NUM_STREAMS: Aim(0.7), NUM_ADAPTERS: None}
    ratios: dict[int, list[float]] = {streams: [] for streams in aims}
    for _ in range(rounds):
        for streams, found in ratios.items():
            base = bench.seconds([[]] * streams)
            found.append(base / bench.seconds([[adapter] for adapter in adapters[:streams]]))
    for streams, aim in aims.items():
        many = "1 stream with an adapter" if streams == 1 else f"{streams} streams with as many"
        yield _measure(f"{many}, parts of the base's speed", "", ratios[streams], aim)


def _waits(bench: Bench, adapters: list[Adapter], rounds: int) -> Iterator[Measure]:
    later, gaps = [], []
    for number in range(rounds):
        fresh, new = adapters[NUM_ADAPTERS + 2 * number :][:2]
        known = bench.first_token([adapters[NUM_ADAPTERS - 1]])
        later.append(bench.first_token([fresh]) - known)
        gaps.append(bench.longest_gap([new]))
    yield _measure(
        "first token of an adapter not yet read, later by", "s", later, Aim(0.3, is_at_most=True)
    )
    yield _measure(
        "8 streams while one is taken in, longest wait", "s", gaps, Aim(0.2, is_at_most=True)
    )


def _beside_peft(
    bench: Bench, peer: PeftPeer, adapters: list[Adapter], rounds: int
) -> Iterator[Comparison]:
    """The same streams of both in turn; peft holds the base in bfloat16."""
    used: dict[str, list[list[Adapter]]] = {
        "base": [[] for _ in range(NUM_STREAMS)],
        "adapters": [[adapter] for adapter in adapters[:NUM_STREAMS]],
    }
    ours: dict[str, list[float]] = {what: [] for what in used}
    theirs: dict[str, list[float]] = {what: [] for what in used}
    for _ in range(rounds):
        for what, streams in used.items():
            ours[what].append(NUM_STREAMS / bench.seconds(streams))
            theirs[what].append(NUM_STREAMS / peer.seconds(what))
    for what, title in (("base", "on the base"), ("adapters", "with 8 adapters")):
        yield Comparison(
            "llama1b-q4", f"8 streams {title}", "tok/s", "peft generate, bfloat16",
            tuple(ours[what]), tuple(theirs[what]),
        )  # fmt: skip


def _measure(what: str, unit: str, samples: Sequence[float], aim: Aim | None) -> Measure:
    return Measure("llama1b-q4", what, unit, tuple(samples), aim)


if __name__ == "__main__":
    for row in measure(0, *map(int, sys.argv[1:])):
        print(measure_table([row]) if isinstance(row, Measure) else comparison_table([row]))
