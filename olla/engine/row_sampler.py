"""One row of logits in the computer's memory -> its token, by the filters that sampler.py names.

Only the likeliest tokens are put in order; more of them where a filter or the draw goes further.
Knows neither tensors nor other rows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from olla.options import SamplingParams

Row = NDArray[np.float32]

COLDEST, HOTTEST = 1e-6, 1e30  # float32 holds both, and their quotients
_FIRST, _GROWTH = 128, 16
_LEAST_CHUNKS, _CHUNKS_EACH = 1024, 4
_LOWEST = np.finfo(np.float32).min


def draw(logits: Row, params: SamplingParams, uniform: float) -> int:
    """The next token.

    Args:
        logits: (vocab_size,), after bias, penalties and mask.
        uniform: a number in [0, 1), looked up in the running sum of the likelihoods, the largest
            first, equal ones by their tokens' numbers.
    """
    if params.temperature <= 0:
        return int(logits.argmax())
    wanted = min(params.top_k, len(logits)) if params.top_k > 0 else len(logits)
    needs_all = params.top_k > 0 or params.typical_p < 1
    count = wanted if needs_all else min(_FIRST, wanted)
    with np.errstate(over="ignore"):  # what float32 cannot hold is too unlikely to matter
        while True:
            values = likeliest(logits, count)
            if not len(values) or not np.isfinite(values[0]):  # a broken model's
                return int(logits.argmax())
            if params.typical_p < 1:
                values = _typical(values, params.typical_p)
            place = _place(logits, values, count == wanted, params, uniform)
            if place is not None:
                return _token(logits, values, place)
            count = min(count * _GROWTH, wanted)


def likeliest(logits: Row, count: int) -> Row:
    """The `count` largest in falling order; fewer if all others are -inf."""
    num_chunks = max(_LEAST_CHUNKS, _CHUNKS_EACH * count)
    least = _LOWEST
    if num_chunks <= len(logits):
        # `count` chunks have a value of at least this, so it is not above the last one wanted.
        chunks = logits[: len(logits) // num_chunks * num_chunks].reshape(-1, num_chunks)
        maxima = np.partition(chunks.max(axis=0), num_chunks - count)
        least = np.maximum(least, maxima[num_chunks - count])
    return np.sort(logits[np.flatnonzero(logits >= least)])[: -count - 1 : -1]


def likeliest_tokens(logits: Row, count: int) -> NDArray[np.int64]:
    """The tokens of the `count` largest in falling order, the first of equal ones first."""
    if count == 0:
        return np.empty(0, np.int64)
    values = likeliest(logits, count)
    tokens = np.flatnonzero(logits >= (values[-1] if len(values) else -np.inf))
    return tokens[np.argsort(-logits[tokens], kind="stable")[:count]]


def sum_of_exp(logits: Row, shift: np.float32, temperature: float = 1.0) -> float:
    """The sum of exp((logits - shift) / temperature)."""
    heated = logits - shift
    if temperature != 1.0:
        heated /= np.float32(temperature)
    return float(np.exp(heated, out=heated).sum())


def _typical(values: Row, typical_p: float) -> Row:
    """Those whose surprise is nearest the expected one, until they sum to typical_p."""
    relative = values - values[0]
    surprise = np.log(np.exp(relative).sum()) - relative
    likelihoods = np.exp(-surprise)
    is_possible = likelihoods > 0
    entropy = likelihoods[is_possible] @ surprise[is_possible]
    # One run falls and one rises, which a stable sort merges in a pass.
    order = np.abs(surprise - entropy).argsort(kind="stable")
    ordered = likelihoods[order]
    num_kept = np.count_nonzero(np.cumsum(ordered, dtype=np.float64) - ordered < typical_p)
    kept: Row = values[np.sort(order[: max(num_kept, 1)])]
    return kept


def _place(
    logits: Row, values: Row, is_all: bool, params: SamplingParams, uniform: float
) -> int | None:
    """Where the drawn one is among `values`, which are the likeliest, or all of them.

    None if it takes more of them to know.
    """
    num_kept = _num_kept(logits, values, is_all, params)
    is_cut = num_kept < len(values)
    if not (is_cut or is_all) and (params.top_p < 1 or params.min_p > 0):
        return None
    temperature = min(max(params.temperature, COLDEST), HOTTEST)
    heated = (values[:num_kept] - values[0]) / np.float32(temperature)
    sums = np.exp(heated, out=heated).cumsum(dtype=np.float64)
    is_known = is_cut or is_all
    total = sums[-1] if is_known else sum_of_exp(logits, values[0], temperature)
    # Rounded up to all of it, it would be passed nowhere, or by a token that a filter removed.
    target = min(uniform * total, np.nextafter(total, 0))
    place = int(sums.searchsorted(target, side="right"))
    return place if place < num_kept or is_known else None


def _num_kept(logits: Row, values: Row, is_all: bool, params: SamplingParams) -> int:
    """How many of `values` top-p and min-p keep; those as likely as the first always."""
    if params.top_p >= 1 and params.min_p <= 0:
        return len(values)
    weights = np.exp(values - values[0])
    num_kept = len(values)
    if params.top_p < 1:
        total = weights.sum() if is_all else sum_of_exp(logits, values[0])
        before = np.cumsum(weights, dtype=np.float64) - weights
        num_kept = int(np.count_nonzero(before < params.top_p * total))
    if params.min_p > 0:
        num_kept = min(num_kept, int(np.count_nonzero(weights >= params.min_p)))
    return max(num_kept, int(np.count_nonzero(values == values[0])))


def _token(logits: Row, values: Row, place: int) -> int:
    """The token whose logit is at a place of the falling order."""
    value = values[place]
    num_before = place - int(np.argmax(values == value))
    return int(np.flatnonzero(logits == value)[num_before])
