"""Steps over a cache of 16 and of 8 bits, in turn: `python -m tests.bench.kv_cache smollm2-q4`.

Decoding goes over random keys and values, since only their number matters to a clock. A prompt is
read in steps of 512 tokens, as the engine does it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch

from olla.engine.kv_cache import KVCache
from olla.engine.loading import load_model
from olla.engine.models.batch import Batch, CausalModel, Span
from tests.bench.models import GGUF_FILES

KINDS = ("f16", "q8_0")
_STEP = 512


def network(file: Path, kind: str) -> CausalModel:
    files = {"model.gguf": str(file)}
    done = load_model(files, "auto", "cpu", 0, lambda done, total: None, kv_cache_type=kind)
    return done.network


def step_s(
    model: CausalModel, cache: KVCache, spans: Sequence[Span], places: Sequence[int]
) -> float:
    """The time of a step whose tokens have these positions, with logits for each span."""
    positions = torch.tensor(places)
    slots = torch.cat([newest_slots(span) for span in spans])
    ends = torch.tensor([span.end - 1 for span in spans])
    batch = Batch(torch.randint(5, 1000, slots.shape), positions, slots, spans, ends, cache)
    start = time.perf_counter()
    model.forward(batch)
    return time.perf_counter() - start


def newest_slots(span: Span) -> torch.Tensor:
    assert isinstance(span.slots, slice)
    return torch.arange(span.slots.stop - (span.end - span.start), span.slots.stop)


def decode_s(model: CausalModel, cache: KVCache, length: int, streams: int) -> float:
    spans = [Span(i, i + 1, slice(i * length, (i + 1) * length)) for i in range(streams)]
    return step_s(model, cache, spans, [length - 1] * streams)


def prefill_s(model: CausalModel, cache: KVCache, length: int) -> float:
    starts = range(0, length, _STEP)
    ends = [min(start + _STEP, length) for start in starts]
    return sum(
        step_s(model, cache, [Span(0, end - start, slice(0, end))], range(start, end))
        for start, end in zip(starts, ends, strict=True)
    )


@torch.inference_mode()
def filled(model: CausalModel, num_slots: int) -> KVCache:
    """A cache of random numbers; as halves and as scales, all of these bytes are finite."""
    cache = KVCache(num_slots)
    decode_s(model, cache, 1, 1)
    random = torch.randint(0, 60, (2**20,), dtype=torch.uint8)
    for layer in range(cache.num_layers):
        for tensor in cache.whole(layer):
            for start in range(0, len(tensor), len(random)):
                part = tensor[start : start + len(random)]
                part.copy_(random[: len(part)])
    return cache


def line(name: str, work: str, tokens: int, times: dict[str, list[float]]) -> str:
    wide, narrow = (tokens / statistics.median(times[kind]) for kind in KINDS)
    ratios = [a / b for a, b in zip(times["f16"], times["q8_0"], strict=True)]
    spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    return f"| {name} | {work} | {wide:,.0f} | {narrow:,.0f} | {spread} |"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", choices=GGUF_FILES)
    parser.add_argument("--lengths", default="1,2000,4000")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--prompt", type=int, default=0, help="tokens of a prompt to read too")
    arguments = parser.parse_args()
    lengths = [int(length) for length in arguments.lengths.split(",")]
    file = GGUF_FILES[arguments.model]()
    models = {kind: network(file, kind) for kind in KINDS}
    caches = {kind: filled(models[kind], 8 * max(lengths)) for kind in KINDS}
    print("| model | work | 16 bits, tok/s | 8 bits, tok/s | ratio |")
    print("| --- | --- | --- | --- | --- |")
    for length in lengths:
        for streams in (1, 8):
            works = {k: partial(decode_s, models[k], caches[k], length, streams) for k in KINDS}
            work = f"decode at {length:,} tokens, {streams} stream{'s' * (streams > 1)}"
            print(
                line(arguments.model, work, streams, in_turn(works, arguments.rounds)), flush=True
            )
    if arguments.prompt:
        works = {k: partial(prefill_s, models[k], caches[k], arguments.prompt) for k in KINDS}
        work = f"prefill of {arguments.prompt:,} tokens"
        print(line(arguments.model, work, arguments.prompt, in_turn(works, 3)))


def in_turn(works: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {kind: [] for kind in works}
    for _ in range(rounds):
        for kind, work in works.items():
            times[kind].append(work())
    return times


if __name__ == "__main__":
    main()
