"""What drafting tokens by look-up gains and costs: the engine alone, with and without, in turns.

    python -m tests.bench.speculation [MODEL,...] [ROUNDS]

One stream on a text that repeats what stands in the prompt, one that does not, and eight of the
latter. The same model answers both, so nothing but the drafts differs; what is said is compared.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Container, Iterable, Iterator
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
_RANDOM = "llama1b-q4"
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
    needs_sense: bool = False  # random weights do not repeat what they read


def tasks() -> tuple[Task, ...]:
    text = _TEXT.read_text(encoding="utf-8")[:_COPIED_CHARACTERS]
    thrice = f"{text}\n\n{text}\n\n{text[:100]}"
    free = SamplingParams(temperature=1.0, top_k=0, top_p=1.0)
    stories = tuple(prompt_of(16, number) for number in range(8))
    return (
        Task("1 stream that repeats its prompt", (thrice,), SamplingParams(0.0), Aim(2), True),
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
        tokens_per_s((drafting, plain), task, 0)
        rates: dict[Engine, list[float]] = {drafting: [], plain: []}
        for number in range(1, num_rounds + 1):
            order = (drafting, plain) if number % 2 else (plain, drafting)
            found = tokens_per_s(order, task, number)
            for engine in order:
                rates[engine].append(found[engine])
        ours, theirs = tuple(rates[drafting]), tuple(rates[plain])
        aim = None if task.needs_sense and model == _RANDOM else task.aim
        yield Comparison(model, task.title, "tok/s", "no drafts", ours, theirs, aim)


class Answers:
    """What an engine says to all prompts of a task, and how long it takes from the first token."""

    def __init__(self, engine: Engine, task: Task, number: int) -> None:
        self._engine = engine
        self.texts = dict.fromkeys(range(len(task.prompts)), "")
        self._num_tokens = 0
        self._seconds = 0.0
        for place, prompt in enumerate(task.prompts):
            seeded = replace(task.sampling, seed=number)
            request = Generate(place, "", _NUM_CTX, seeded, num_predict=_NUM_TOKENS)
            engine.add(request, engine.encode(prompt, False))

    @property
    def tokens_per_s(self) -> float:
        return self._num_tokens / self._seconds

    def step(self) -> bool:
        """Whether there is more to come."""
        started = time.perf_counter()
        messages = self._engine.step()
        if any(self.texts.values()):
            self._seconds += time.perf_counter() - started
        for message in messages:
            if isinstance(message, Piece):
                self.texts[message.id] += message.text
            elif isinstance(message, Finished):
                self._num_tokens += message.num_tokens
        return self._engine.has_work


def tokens_per_s(engines: Iterable[Engine], task: Task, number: int) -> dict[Engine, float]:
    """Of all streams of each engine together; they take turns step by step, so that what else
    the machine does costs both the same.

    Raises:
        RuntimeError: they said different things.
    """
    answers = {engine: Answers(engine, task, number) for engine in engines}
    working = list(answers.values())
    while working:
        working = [answer for answer in working if answer.step()]
    first, *others = [answer.texts for answer in answers.values()]
    if any(texts != first for texts in others):
        raise RuntimeError(f"{task.title}: drafts changed what was said")
    return {engine: answer.tokens_per_s for engine, answer in answers.items()}


def main() -> None:
    names = sys.argv[1].split(",") if len(sys.argv) > 1 else list(MODELS)
    num_rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    found = list(measure(names, 0, num_rounds))
    print(comparison_table(found))
    for item in found:
        print(f"{item.model}, {item.work}: median of the ratios {median(item.ratios):.2f}")


if __name__ == "__main__":
    main()
