"""What a grammar costs: eight constrained streams beside eight free ones, over HTTP, in turn.

    python -m tests.bench.constrained

On SmolLM2, of the same prompt and as many tokens; the medians of the rounds, interleaved.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.conformance.daemon import Daemon, running_daemon

MODEL = "smollm2:135m"
STREAMS = 8
NUM_TOKENS = 96
ROUNDS = 7
LONG = {
    "type": "object",
    "properties": {
        "story": {"type": "array", "items": {"type": "string", "minLength": 20}, "minItems": 99}
    },
    "required": ["story"],
}
KINDS: dict[str, dict[str, Any]] = {"free": {}, "format": {"format": LONG}}


def measure(daemon: Daemon) -> dict[str, float]:
    """Tokens per second of decoding, all streams together."""
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for fields in KINDS.values():
        tokens_per_s(daemon, fields)
    for number in range(ROUNDS):
        order = list(KINDS) if number % 2 else list(reversed(KINDS))
        for kind in order:
            found[kind].append(tokens_per_s(daemon, KINDS[kind]))
    return {kind: statistics.median(values) for kind, values in found.items()}


def tokens_per_s(daemon: Daemon, fields: dict[str, Any]) -> float:
    started = time.perf_counter()
    with ThreadPoolExecutor(STREAMS) as pool:
        counts = list(pool.map(lambda _: num_tokens(daemon, fields), range(STREAMS)))
    return sum(counts) / (time.perf_counter() - started)


def num_tokens(daemon: Daemon, fields: dict[str, Any]) -> int:
    """Of a streamed reply, read to its end."""
    body = {
        "model": MODEL,
        "prompt": "Tell a long story, as JSON.",
        "options": {"num_predict": NUM_TOKENS, "temperature": 1, "seed": 1},
        **fields,
    }
    request = urllib.request.Request(f"{daemon.url}/api/generate", json.dumps(body).encode())
    with urllib.request.urlopen(request) as response:
        lines = list(response)
    return int(json.loads(lines[-1])["eval_count"])


def main() -> int:
    with (
        tempfile.TemporaryDirectory() as folder,
        running_daemon(Path(folder), OLLA_DTYPE="auto") as daemon,
    ):
        daemon.ask("POST", "/api/pull", {"model": MODEL, "stream": False})
        found = measure(daemon)
    cost = 1 - found["format"] / found["free"]
    print(f"free {found['free']:.1f} tok/s, with a format {found['format']:.1f}: {cost:.1%} less")
    return 0


if __name__ == "__main__":
    sys.exit(main())
