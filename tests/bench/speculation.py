"""What drafting tokens by look-up gains and costs: the engine alone, with and without, in turn.

    python -m tests.bench.speculation [MODEL,...] [ROUNDS]

One stream on a text that repeats what stands in the prompt, one that does not, and eight of the
latter. The same model answers both, so nothing but the drafts differs; what is said is compared.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Container, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from olla.cli.figures import prompt_of
from olla.engine.engine import Engine
from olla.engine.loading import load_model
from olla.engine.speculator import Speculation
from olla.options import SamplingParams
from olla.runner.protocol import Finished, Generate, Piece
from tests.bench.models import GGUF_FILES
from tests.bench.report import Aim, Comparison, comparison_table

MODELS = ("smollm2-q4", "llama1b-q4")
_NUM_CTX = 2048
_NUM_TOKENS = 128
_TEXT = Path(__file__).with_name("text.txt")
_COPIED_CHARACTERS = 1200


@dataclass(frozen=True, slots=True)
class Task:
    title: str
    prompts: tuple[str, ...]
    sampling: SamplingParams
    aim: Aim


def tasks() -> tuple[Task, ...]:
    text = _TEXT.read_text(encoding="utf-8")[:_COPIED_CHARACTERS]
    thrice = f"{text}\n\n{text}\n\n{text[:100]}"
    free = SamplingParams(temperature=1.0, top_k=0, top_p=1.0)
    stories = tuple(prompt_of(16, number) for number in range(8))
    return (
        Task("1 stream that repeats its prompt", (thrice,), SamplingParams(0.0), Aim(2)),
        Task("1 stream that repeats nothing", stories[:1], free, Aim(0.97)),
        Task("8 streams that repeat nothing", stories, free, Aim(0.97)),
    )


def measure(names: Container[str], threads: int, num_rounds: int) -> Iterator[Comparison]:
    """Of those models among `names` that it is measured on."""
    for name in MODELS:
        if name in names:
            yield from comparisons(name, threads, num_rounds)


def comparisons(model: str, threads: int, num_rounds: int) -> Iterator[Comparison]:
    files = {"model.gguf": str(GGUF_FILES[model]())}
    loaded = load_model(files, "auto", "cpu", threads, lambda done, total: None)
    drafting, plain = Engine(loaded, speculation=Speculation()), Engine(loaded)
    for task in tasks():
        for engine in (drafting, plain):
            tokens_per_s(engine, task, 0)
        rates: dict[Engine, list[float]] = {drafting: [], plain: []}
        for number in range(1, num_rounds + 1):
            order = (drafting, plain) if number % 2 else (plain, drafting)
            texts = []
            for engine in order:
                rate, text = tokens_per_s(engine, task, number)
                rates[engine].append(rate)
                texts.append(text)
            if texts[0] != texts[1]:
                raise RuntimeError(f"{model}, {task.title}: drafts changed what was said")
        ours, theirs = tuple(rates[drafting]), tuple(rates[plain])
        yield Comparison(model, task.title, "tok/s", "no drafts", ours, theirs, task.aim)


def tokens_per_s(engine: Engine, task: Task, number: int) -> tuple[float, list[str]]:
    """Of all streams together, from the first token of any to the end; and what they said."""
    texts = dict.fromkeys(range(len(task.prompts)), "")
    num_tokens, first_s = 0, 0.0
    for place, prompt in enumerate(task.prompts):
        seeded = replace(task.sampling, seed=number)
        request = Generate(place, "", _NUM_CTX, seeded, num_predict=_NUM_TOKENS)
        engine.add(request, engine.encode(prompt, False))
    while engine.has_work:
        for message in engine.step():
            if isinstance(message, Piece):
                first_s = first_s or time.perf_counter()
                texts[message.id] += message.text
            elif isinstance(message, Finished):
                num_tokens += message.num_tokens
    return num_tokens / (time.perf_counter() - first_s), list(texts.values())


def main() -> None:
    names = sys.argv[1].split(",") if len(sys.argv) > 1 else list(MODELS)
    num_rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    found = list(measure(names, 0, num_rounds))
    print(comparison_table(found))
    for item in found:
        print(f"{item.model}, {item.work}: median of the ratios {median(item.ratios):.2f}")


if __name__ == "__main__":
    main()
