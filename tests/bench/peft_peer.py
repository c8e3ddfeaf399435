"""peft over the 1.24 B shape in bfloat16, `adapter_names` under `generate`: a program to be asked.

    python -m tests.bench.peft_peer FOLDER STREAMS THREADS

FOLDER holds an adapter, which is loaded once for each stream. A line "base" or "adapters" on stdin
is answered by the seconds that one token of all streams takes, prompts left out.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench.models import LLAMA_1B, Shape

NUM_TOKENS = 24
_PROMPT = 8


class PeftPeer:
    """The program, from outside."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def seconds(self, what: str) -> float:
        """`what` is "base" or "adapters"."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("peft has ended; what it wrote to stderr says why")
        return float(answer)


@contextmanager
def peft_peer(folder: Path, streams: int, threads: int) -> Iterator[PeftPeer]:
    command = [sys.executable, "-m", "tests.bench.peft_peer", folder, streams, threads]
    with subprocess.Popen(
        [str(word) for word in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield PeftPeer(process)
        process.kill()


def main(folder: str, streams: int, threads: int) -> None:
    import peft
    import torch

    if threads:
        torch.set_num_threads(threads)
    model = peft.PeftModel.from_pretrained(random_model(LLAMA_1B), folder, "0")
    for number in range(1, streams):
        model.load_adapter(folder, str(number))
    model = model.to(torch.bfloat16).eval()
    tokens = torch.arange(3, 3 + streams * _PROMPT).reshape(streams, _PROMPT)
    names = {"base": ["__base__"] * streams, "adapters": [str(n) for n in range(streams)]}

    def seconds(used: list[str], count: int) -> float:
        started = time.perf_counter()
        model.generate(
            input_ids=tokens, attention_mask=torch.ones_like(tokens), adapter_names=used,
            max_new_tokens=count, min_new_tokens=count, do_sample=False, pad_token_id=0,
        )  # fmt: skip
        return time.perf_counter() - started

    for used in names.values():  # whatever is slow the first time
        seconds(used, 2)
    for line in sys.stdin:
        used = names[line.strip()]
        prompt = seconds(used, 1)
        print((seconds(used, NUM_TOKENS + 1) - prompt) / NUM_TOKENS, flush=True)


def random_model(shape: Shape) -> object:
    import torch
    import transformers
    from transformers.initialization import no_init_weights

    config = transformers.LlamaConfig(
        hidden_size=shape.hidden_size, num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads, num_key_value_heads=shape.num_kv_heads,
        head_dim=shape.head_dim, intermediate_size=shape.intermediate_size,
        vocab_size=shape.vocab_size, tie_word_embeddings=True, eos_token_id=2, bos_token_id=1,
    )  # fmt: skip
    torch.set_default_dtype(torch.bfloat16)
    with no_init_weights():
        model = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.02)
    return model


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
