"""olla's engine without daemon, HTTP and pipes, as a child of the bench.

It says "ready" when the model is loaded. Then a line of JSON in, {"prompts", "num_tokens"}, and a
line of JSON out, the timed replies.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from typing import Any

from olla.engine.engine import Engine
from olla.engine.loading import load_model
from olla.options import SamplingParams
from olla.runner.protocol import Finished, Generate, Piece
from tests.bench.peers import MAX_STREAMS, NUM_CTX


def generate(engine: Engine, prompts: Sequence[str], num_tokens: int) -> list[dict[str, Any]]:
    """Fields of a TimedReply for each prompt."""
    started_s = time.perf_counter()
    for number, prompt in enumerate(prompts):
        request = Generate(
            id=number,
            prompt="",
            num_ctx=NUM_CTX,
            sampling=SamplingParams(temperature=0),
            num_predict=num_tokens,
        )
        engine.add(request, engine.encode(prompt, False))
    pieces_s: dict[int, list[float]] = {number: [] for number in range(len(prompts))}
    ends: dict[int, Finished] = {}
    while engine.has_work:
        for message in engine.step():
            if isinstance(message, Piece):
                pieces_s[message.id].append(time.perf_counter())
            elif isinstance(message, Finished):
                ends[message.id] = message
    return [
        {
            "started_s": started_s,
            "pieces_s": pieces_s[number],
            "num_prompt_tokens": ends[number].num_prompt_tokens,
            "num_tokens": ends[number].num_tokens,
        }
        for number in range(len(prompts))
    ]


def main(path: str, threads: str) -> None:
    model = load_model({"model.gguf": path}, "auto", "cpu", int(threads), lambda done, total: None)
    engine = Engine(model, NUM_CTX * MAX_STREAMS)
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(generate(engine, request["prompts"], request["num_tokens"])), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
