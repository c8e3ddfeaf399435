"""`make bench-gpu`: a random model of Llama-3.1-8B's shape in bfloat16, in olla's engine.

No file is needed: the weights are drawn on the device. The decode rates stand beside what the
device can copy in the same run, since every step reads every weight once.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from olla.cli.figures import prompt_of, round_of
from olla.client.timing import TimedReply
from olla.engine.engine import Engine
from olla.engine.loading import LoadedModel, recorder
from olla.engine.matrices import Dense
from olla.engine.models.decoder import Decoder
from olla.engine.models.families import decoder_config
from olla.engine.weights.gguf import GgufCheckpoint
from tests.bench.engine_alone import generate
from tests.bench.models import smollm2_q4
from tests.bench.startup import commit

SHAPES: dict[str, dict[str, int]] = {
    "llama-8b": {
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
    "tiny": {
        "vocab_size": 49152,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
}
_PROMPT_WORDS = 64
_CACHE_TOKENS = 64 * 1024


class RandomParameters:
    """Parameters of any name and shape, drawn on the device; norms are 1 so that nothing grows."""

    def __init__(self, device: torch.device, seed: int = 0) -> None:
        self._device = device
        self._generator = torch.Generator(device).manual_seed(seed)

    def take(self, name: str, shape: tuple[int, ...]) -> Tensor:
        if len(shape) == 1:
            tensor = torch.ones(shape, device=self._device, dtype=torch.bfloat16)
        else:
            tensor = torch.empty(shape, device=self._device, dtype=torch.bfloat16)
            tensor.normal_(0.0, 0.02, generator=self._generator)
        return tensor

    def take_optional(
        self, name: str, shape: tuple[int, ...], dtype: torch.dtype | None = None
    ) -> Tensor | None:
        return None

    def table(self, name: str, rows: int, columns: int) -> Dense:
        return Dense(self.take(name, (rows, columns)))

    def matrix(self, parts: Mapping[str, int], in_features: int) -> Dense:
        return Dense(self.take("+".join(parts), (sum(parts.values()), in_features)))

    def float_matrix(self, name: str, rows: int, in_features: int) -> Dense:
        return self.table(name, rows, in_features)

    def matrix_optional(self, name: str, rows: int, in_features: int) -> Dense | None:
        """Only the head, which is not the embedding in this family, is there."""
        return Dense(self.take(name, (rows, in_features))) if "lm_head" in name else None


@dataclass(frozen=True, slots=True)
class GpuFigure:
    """`share`: how much of the copy bandwidth the reading of the weights takes."""

    streams: int
    tokens_per_s: float
    share: float


def random_model(shape: Mapping[str, int], device: torch.device) -> LoadedModel:
    checkpoint = GgufCheckpoint(smollm2_q4())
    config: dict[str, Any] = {
        **shape,
        "model_type": "llama",
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": False,
    }
    network = Decoder(decoder_config(config), RandomParameters(device))
    tokenizer = checkpoint.tokenizer()
    special = checkpoint.special_tokens(tokenizer)
    return LoadedModel(
        network=network,
        tokenizer=tokenizer,
        special_tokens=special,
        device=device,
        dtype=torch.bfloat16,
        base_vocab_size=network.config.vocab_size,
        record=recorder(network, device),
    )


def copy_bytes_per_s(device: torch.device, num_bytes: int, rounds: int = 10) -> float:
    """Bytes read and written in a second by torch's own copy; the best of the rounds."""
    source = torch.zeros(num_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    best_s = float("inf")
    for _ in range(rounds):
        synchronize(device)
        start_s = time.perf_counter()
        target.copy_(source)
        synchronize(device)
        best_s = min(best_s, time.perf_counter() - start_s)
    return 2 * num_bytes / best_s


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(
    engine: Engine, streams: Sequence[int], num_tokens: int, limit: float, rounds: int
) -> list[GpuFigure]:
    """Args:
    limit: tokens in a second that one stream would have if weights were read at copy speed.
    """
    figures = []
    for count in streams:
        samples = [decode_rate(engine, count, num_tokens, number) for number in range(rounds + 1)]
        rate = statistics.median(samples[1:])  # the first one warms up
        figures.append(GpuFigure(count, rate, rate / count / limit))
    return figures


def decode_rate(engine: Engine, streams: int, num_tokens: int, number: int) -> float:
    prompts = [prompt_of(_PROMPT_WORDS, number * 1000 + stream) for stream in range(streams)]
    replies = generate(engine, prompts, num_tokens)
    timed = [TimedReply(**{**reply, "pieces_s": tuple(reply["pieces_s"])}) for reply in replies]
    return round_of(timed).decode


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench-gpu")
    parser.add_argument("--shape", choices=SHAPES, default="llama-8b")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--streams", default="1,64")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--copy-bytes", type=int, default=4 << 30)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    bandwidth = copy_bytes_per_s(device, arguments.copy_bytes)
    model = random_model(SHAPES[arguments.shape], device)
    engine = Engine(model, _CACHE_TOKENS)
    streams = [int(text) for text in arguments.streams.split(",")]
    limit = bandwidth / model.num_bytes
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{arguments.shape} bfloat16, {model.num_bytes / 1e9:.1f} GB, {name}, commit {commit()}")
    print(f"copy {bandwidth / 1e12:.2f} TB/s: at most {limit:,.0f} tok/s for one stream\n")
    print("| streams | decode, tok/s | copy bandwidth that the weights take |\n| --- | --- | --- |")
    for figure in measure(engine, streams, arguments.tokens, limit, arguments.rounds):
        print(f"| {figure.streams} | {figure.tokens_per_s:,.1f} | {figure.share:.0%} |")


if __name__ == "__main__":
    main()
