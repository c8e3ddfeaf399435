"""How far quantized weights lead away: perplexity on a fixed text, and the distance to float32.

olla as it loads SmolLM2's files by itself, with a cache of 8 bits and in bfloat16, and llama.cpp on
the same file, all beside the same weights in float32. As llama-perplexity does it: windows of
NUM_CTX tokens, of which the second half counts. That tool saves nothing less likely than e^-16 of
the likeliest, so its divergence is off by about 0.001.
"""

from __future__ import annotations

import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from olla.engine.kv_cache import KVCache
from olla.engine.loading import LoadedModel, load_model
from olla.engine.models.batch import Batch, Span
from tests.bench.models import GGUF_FILES
from tests.bench.peers import LLAMA_SERVER

NUM_CTX = 256
TEXT = Path(__file__).with_name("text.txt")
FILES = {name: file for name, file in GGUF_FILES.items() if name.startswith("smollm2")}
_MAGIC = b"_logits_"


@dataclass(frozen=True, slots=True)
class Prediction:
    """logprobs: (num_windows, NUM_CTX / 2 - 1, vocab_size), of the windows' second halves."""

    windows: Tensor
    logprobs: Tensor

    @property
    def perplexity(self) -> float:
        targets = self.windows[:, -self.logprobs.shape[1] :]
        chosen = self.logprobs.gather(2, targets[:, :, None])
        return float(torch.exp(-chosen.double().mean()))

    def divergence_from(self, reference: Prediction) -> float:
        """Mean over the tokens of KL(reference || self), in nats."""
        weights = reference.logprobs.exp()
        return float((weights * (reference.logprobs - self.logprobs)).sum(-1).double().mean())


def olla_prediction(file: Path, dtype: str, text: str, kv_cache_type: str = "auto") -> Prediction:
    model = load_model(
        {"model.gguf": str(file)}, dtype, "cpu", 0, lambda done, total: None,
        kv_cache_type=kv_cache_type,
    )  # fmt: skip
    tokens = model.tokenizer.encode(text, add_special_tokens=False).ids
    num_windows = len(tokens) // NUM_CTX
    windows = torch.tensor(tokens[: num_windows * NUM_CTX]).view(num_windows, NUM_CTX)
    return Prediction(windows, torch.stack([window_logprobs(model, row) for row in windows]))


def window_logprobs(model: LoadedModel, tokens: Tensor) -> Tensor:
    """(num_tokens / 2 - 1, vocab_size): what the second half's tokens but the last predict."""
    places = torch.arange(len(tokens))
    batch = Batch(
        tokens=tokens,
        positions=places,
        slots=places,
        spans=[Span(0, len(tokens), slice(0, len(tokens)))],
        logit_rows=places[len(tokens) // 2 : -1],
        cache=KVCache(len(tokens)),
    )
    return model.network.forward(batch).float().log_softmax(-1)


def llama_prediction(file: Path, text: Path) -> Prediction:
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "logits"
        command = [
            LLAMA_SERVER.with_name("llama-perplexity"), "-m", file, "-f", text, "-c", NUM_CTX,
            "--kl-divergence-base", found,
        ]  # fmt: skip
        subprocess.run(
            list(map(str, command)), check=True, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        return read_prediction(found.read_bytes())


def read_prediction(data: bytes) -> Prediction:
    """What llama-perplexity saves: windows, then rows of a scale, a least value and 16-bit steps.

    Raises:
        ValueError: the bytes are something else.
    """
    if not data.startswith(_MAGIC):
        raise ValueError("this is not a file of llama-perplexity")
    num_ctx, vocab_size, num_windows = np.frombuffer(data, "<i4", 3, len(_MAGIC)).tolist()
    start = len(_MAGIC) + 12
    windows = np.frombuffer(data, "<i4", num_windows * num_ctx, start)
    row = np.dtype(
        [("scale", "<f4"), ("least", "<f4"), ("steps", "<u2", (vocab_size + 1) // 2 * 2)]
    )
    rows = np.frombuffer(data, row, offset=start + windows.nbytes)
    values = rows["least"][:, None] + rows["scale"][:, None] * rows["steps"][:, :vocab_size]
    return Prediction(
        torch.tensor(windows.astype(np.int64)).view(num_windows, num_ctx),
        torch.from_numpy(values).view(num_windows, -1, vocab_size),
    )


def table(reference: Prediction, others: dict[str, Prediction]) -> str:
    lines = ["| weights | perplexity | KL to float32, nats a token |", "| --- | --- | --- |"]
    for name, found in {"float32": reference, **others}.items():
        if not torch.equal(found.windows, reference.windows):
            raise RuntimeError(f"{name} cuts the text into other tokens")
        divergence = found.divergence_from(reference)
        lines.append(f"| {name} | {found.perplexity:.3f} | {divergence:.5f} |")
    return "\n".join(lines) + "\n"


def measure() -> str:
    text = TEXT.read_text(encoding="utf-8")
    return "\n".join(f"{name}:\n\n{measure_file(file(), text)}" for name, file in FILES.items())


def measure_file(file: Path, text: str) -> str:
    others = {
        "olla, as it loads the file": olla_prediction(file, "auto", text),
        "olla, keys and values in 8 bits": olla_prediction(file, "auto", text, "q8_0"),
        "olla, bfloat16": olla_prediction(file, "bfloat16", text),
    }
    if LLAMA_SERVER.with_name("llama-perplexity").exists():
        others["llama.cpp"] = llama_prediction(file, TEXT)
    return table(olla_prediction(file, "float32", text), others)


if __name__ == "__main__":
    print(measure())
