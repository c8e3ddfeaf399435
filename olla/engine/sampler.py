"""Logits -> the next token of every sequence in the batch.

A bias is added first. Then the filters run in llama.cpp's default order (llama.cpp,
tools/completion/README.md): penalties, top-k, typical-p, top-p, min-p, temperature; what a grammar
forbids is gone before the first that counts tokens. Every row has its own parameters and its own
random number, so a row's result does not depend on which other rows are there. A GPU takes all
rows in one pass; on a CPU, where each of many small operations costs more than what it computes,
they go one by one through row_sampler.py.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from collections.abc import Sequence as Rows
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from olla.engine.row_sampler import COLDEST, HOTTEST, draw
from olla.options import SamplingParams

_MOST_PENALTY = 1e9

_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
_ADDENDS = np.where(_BITS, 0, -np.inf).astype(np.float32)
"""What a byte of a mask adds to the logits of its eight tokens."""


class Bias(NamedTuple):
    """What is added to the logits of some tokens: ids (n,) int64 and addends (n,) float32."""

    ids: Tensor
    addends: Tensor

    @classmethod
    def of(cls, addends: Mapping[int, float], device: torch.device) -> Bias | None:
        """The bias of a request, None for none."""
        if not addends:
            return None
        values = torch.tensor(list(addends.values()), dtype=torch.float32, device=device)
        return cls(torch.tensor(list(addends), device=device), values)


class SamplingRow(NamedTuple):
    """What one row is sampled by.

    `history`: the sequence's tokens so far, oldest first. `uniform`: a number in [0, 1).
    `mask`: a bit for each token that a grammar allows, eight to a byte, lowest first; None allows
    all.
    """

    params: SamplingParams
    history: Rows[int]
    uniform: float
    bias: Bias | None = None
    mask: NDArray[np.uint8] | None = None


@torch.inference_mode()
def sample(logits: Tensor, rows: Rows[SamplingRow]) -> list[int]:
    """Draw the next token of every row.

    Args:
        logits: (num_rows, vocab_size), float32. Overwritten.
        rows: one for each row; temperature 0 or less takes the likeliest token.
    """
    by = sample_one_by_one if logits.device.type == "cpu" else sample_together
    return by(logits, rows)


def sample_one_by_one(logits: Tensor, rows: Rows[SamplingRow]) -> list[int]:
    """As `sample`, in the computer's own memory."""
    _adjust(logits, rows)
    drawn = []
    for values, row in zip(logits.numpy(), rows, strict=True):
        if row.mask is not None:
            addends = _ADDENDS.take(row.mask, axis=0).reshape(-1)
            np.add(values, addends[: len(values)], out=values)
        drawn.append(draw(values, row.params, row.uniform))
    return drawn


def sample_together(logits: Tensor, rows: Rows[SamplingRow]) -> list[int]:
    """As `sample`, on any device."""
    _adjust(logits, rows)
    forbid(logits, rows)
    chosen = logits.argmax(dim=-1)
    # Rows of one top_k together: among equal logits, how many are wanted decides which are had.
    widths: dict[int, list[int]] = {}
    for index, row in enumerate(rows):
        if row.params.temperature > 0:
            widths.setdefault(_top_k(row.params, logits.shape[1]), []).append(index)
    for width, indices in widths.items():
        chosen[indices] = _sample_top(logits[indices], width, [rows[index] for index in indices])
    return [int(token) for token in chosen.tolist()]


def _adjust(logits: Tensor, rows: Rows[SamplingRow]) -> None:
    """Add biases and take penalties off, in place."""
    for index, row in enumerate(rows):
        if row.bias is not None:
            logits[index].index_add_(0, row.bias.ids, row.bias.addends)
        if penalizes(row.params):
            penalize(logits[index], row.params, row.history)


def _sample_top(logits: Tensor, width: int, rows: Rows[SamplingRow]) -> Tensor:
    """Draw a token (num_rows,) for each row from its `width` likeliest."""
    values, tokens = logits.topk(width, dim=-1)
    params = _columns(rows, logits.device)
    values = _filter(values, params)
    # Relative to the largest, so that no temperature overflows.
    heated = (values - values.amax(dim=-1, keepdim=True)) / params["temperature"]
    places = _draw(torch.softmax(heated, dim=-1), params["uniform"])
    return tokens.gather(1, places).squeeze(1)


def penalizes(params: SamplingParams) -> bool:
    """Whether the history makes a difference."""
    is_on = params.repeat_penalty != 1.0 or params.presence_penalty or params.frequency_penalty
    return bool(is_on) and params.repeat_last_n != 0


def penalize(logits: Tensor, params: SamplingParams, history: Rows[int]) -> None:
    """Lower, in place, the logits (vocab_size,) of tokens among the last `repeat_last_n`.

    Repeated tokens' logits are divided by repeat_penalty when positive and multiplied when
    negative; then presence_penalty is subtracted once and frequency_penalty for each occurrence.
    A repeat_penalty that is no factor, such as 0, changes nothing.
    """
    if params.repeat_last_n == 0:
        return
    recent = history if params.repeat_last_n < 0 else history[-params.repeat_last_n :]
    counts = Counter(recent)
    if not counts:
        return
    repeat = params.repeat_penalty if params.repeat_penalty > 0 else 1.0
    repeat = min(max(repeat, 1 / _MOST_PENALTY), _MOST_PENALTY)
    once, each = _bounded(params.presence_penalty), _bounded(params.frequency_penalty)
    tokens: Any = np.fromiter(counts, np.int64)
    times: Any = np.fromiter(counts.values(), np.float32)
    values: Any = logits
    if logits.device.type == "cpu":
        values = logits.numpy()  # a third of the time of torch's operations
    else:
        tokens = torch.from_numpy(tokens).to(logits.device)
        times = torch.from_numpy(times).to(logits.device)
    seen = values[tokens]
    seen = seen.clip(0, None) / repeat + seen.clip(None, 0) * repeat
    values[tokens] = seen - once - each * times


def _bounded(penalty: float) -> float:
    """A penalty that float32 can be lowered by; one that is no number is none."""
    return 0.0 if math.isnan(penalty) else min(max(penalty, -_MOST_PENALTY), _MOST_PENALTY)


def forbid(logits: Tensor, rows: Rows[SamplingRow]) -> None:
    """Set to -inf, in place, what the rows' grammars do not allow."""
    masks = {index: row.mask for index, row in enumerate(rows) if row.mask is not None}
    if not masks:
        return
    indices = torch.tensor(list(masks), device=logits.device)
    packed = torch.from_numpy(np.stack(list(masks.values()))).to(logits.device)
    # A table of bytes costs a tenth of masked_fill on a CPU, and little crosses over to a GPU.
    table = torch.from_numpy(_ADDENDS).to(logits.device)
    addends = functional.embedding(packed.int(), table).flatten(1)
    logits.index_add_(0, indices, addends[:, : logits.shape[1]])


def _top_k(params: SamplingParams, vocab_size: int) -> int:
    return min(params.top_k, vocab_size) if params.top_k > 0 else vocab_size


def _columns(rows: Rows[SamplingRow], device: torch.device) -> dict[str, Tensor]:
    """Each parameter as a column (num_rows, 1)."""

    def column(values: list[float], dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=device)[:, None]

    params = [row.params for row in rows]
    return {
        "typical_p": column([p.typical_p for p in params]),
        "top_p": column([p.top_p for p in params]),
        "min_p": column([p.min_p for p in params]),
        "temperature": column([min(max(p.temperature, COLDEST), HOTTEST) for p in params]),
        "uniform": column([row.uniform for row in rows], torch.float64),
    }


def _filter(values: Tensor, params: dict[str, Tensor]) -> Tensor:
    """Set to -inf what the filters remove. `values` (num_rows, width) stand in falling order."""
    if bool((params["typical_p"] < 1).any()):
        values = _typical(values, params["typical_p"])
    probabilities = torch.softmax(values, dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities
    # The likeliest token always stays, whatever the parameters say.
    removed = (params["top_p"] < 1) & (before >= params["top_p"])
    values = values.masked_fill(removed & (probabilities < probabilities.amax(1, True)), -torch.inf)
    floor = probabilities.amax(dim=-1, keepdim=True) * params["min_p"]
    removed = (params["min_p"] > 0) & (probabilities < floor)
    return values.masked_fill(removed & (probabilities < probabilities.amax(1, True)), -torch.inf)


def _typical(values: Tensor, typical_p: Tensor) -> Tensor:
    """Keep the tokens whose surprise is nearest the expected one, until they sum to typical_p."""
    log_probabilities = torch.log_softmax(values, dim=-1)
    probabilities = log_probabilities.exp()
    surprise = -log_probabilities
    entropy = (probabilities * surprise.masked_fill(probabilities == 0, 0)).sum(-1, keepdim=True)
    distance = (surprise - entropy).abs()
    order = distance.argsort(dim=-1)
    ordered = probabilities.gather(1, order)
    removed_in_order = ordered.cumsum(dim=-1) - ordered >= typical_p
    removed_in_order[:, 0] = False
    removed = torch.zeros_like(removed_in_order).scatter(1, order, removed_in_order)
    return values.masked_fill(removed & (typical_p < 1), float("-inf"))


def _draw(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """The first place (num_rows, 1) at which the running sum passes `uniform`."""
    sums = probabilities.double().cumsum(dim=-1)
    total = sums[:, -1:]
    # Rounded up to all of it, it would be passed nowhere, or by a token that a filter removed.
    target = torch.minimum(uniform * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(sums, target, right=True).clamp(max=probabilities.shape[1] - 1)
