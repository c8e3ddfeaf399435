"""Parts of an adapter -> deltas of one linear or embedding of the model.

Knows one layer at a time, as the columns [start, end) of a matrix with a bias; how the model
finds its layers is the model's. Refuses what does not fit the layer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from olla.engine.linear import Delta, RowDelta
from olla.engine.parts import LowRank, Part, Replaced, TokenRows
from olla.errors import FormatError

_ROWS_AT_ONCE = 1024


@dataclass(frozen=True, slots=True)
class Layer:
    """One projection of the model: weight (end - start, in_features).

    `rows(first, last)` gives the weight's rows of that range, float; `like` is of the dtype and on
    the device that is computed with.
    """

    start: int
    end: int
    in_features: int
    rows: Callable[[int, int], Tensor]
    bias: Tensor | None
    like: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        return self.end - self.start, self.in_features


def delta_of(part: Part, layer: Layer) -> Delta:
    """What a part adds to a linear.

    Raises:
        FormatError: it does not fit.
    """
    if isinstance(part, TokenRows):
        return _chosen_rows(part, layer)
    if isinstance(part, Replaced):
        return _replaced(part, layer)
    fits = part.a.shape[1] == layer.in_features and part.b.shape[0] == layer.shape[0]
    if not fits or part.a.shape[0] != part.b.shape[1]:
        raise _misfit(part.module, layer, part.a, part.b)
    return _low_rank(part, layer)


def stretched(delta: Delta, by: Delta) -> Delta:
    """An earlier delta under a DoRA `by` of the same columns, which scales what it finds there.

    As in peft, where each active adapter is given the outputs of those before it. A change of the
    bias alone stays: the magnitude is the weight's.
    """
    if by.keep is None or (delta.a is None and delta.keep is None):
        return delta
    factor = 1 + (by.keep if delta.chosen is None else by.keep[delta.chosen])
    column = factor[:, None]
    return replace(
        delta,
        a=delta.a * column if delta.b is None and delta.a is not None else delta.a,
        b=None if delta.b is None else delta.b * column,
        keep=None if delta.keep is None else delta.keep * factor,
        constant=None if delta.constant is None else delta.constant * factor,
    )


def one_hot(part: LowRank | Replaced) -> Part:
    """A part of an embedding as one of the linear that it is for one-hot inputs."""
    if isinstance(part, LowRank):
        return part
    if part.values.ndim != 2:
        raise FormatError(f"adapter for {part.module} is {tuple(part.values.shape)}, not a matrix")
    return Replaced(part.module, part.parameter, part.values.T, part.share)


def row_delta(part: TokenRows, table: Layer) -> RowDelta:
    """What trained tokens change in the rows of an embedding; `table` is (hidden, vocab).

    Raises:
        FormatError: they do not fit.
    """
    _check_tokens(part, table.in_features, table.shape[0])
    device = table.like.device
    return RowDelta(part.tokens.to(device), part.rows.to(table.like), part.share)


def _low_rank(part: LowRank, layer: Layer) -> Delta:
    like, share = layer.like, part.share
    constant = None if part.bias is None else _sized(part.bias, layer, part.module) * share
    if part.magnitude is None:
        b = part.b if share == 1.0 else part.b * share
        return Delta(
            layer.start, layer.end, part.a.to(like), b.to(like), constant=_to(constant, like)
        )
    factor = _sized(part.magnitude, layer, part.module) / _lengths(part, layer)
    keep = share * (factor - 1)
    if layer.bias is not None:  # the magnitude is the weight's alone
        taken = -keep * _bias(layer)
        constant = taken if constant is None else taken + constant * factor
    elif constant is not None:
        constant = constant * factor
    b = part.b * (share * factor)[:, None]
    return Delta(
        layer.start, layer.end, part.a.to(like), b.to(like), keep.to(like), _to(constant, like)
    )


def _lengths(part: LowRank, layer: Layer) -> Tensor:
    """The lengths (out_features,) of the rows of the changed weight, some rows at a time."""
    ends = range(0, layer.shape[0], _ROWS_AT_ONCE)
    return torch.cat(
        [
            torch.linalg.vector_norm(
                layer.rows(first, min(first + _ROWS_AT_ONCE, layer.shape[0])).float().cpu()
                + part.b[first : first + _ROWS_AT_ONCE] @ part.a,
                dim=1,
            )
            for first in ends
        ]
    )


def _replaced(part: Replaced, layer: Layer) -> Delta:
    like, share = layer.like, part.share
    if part.parameter == "bias":
        change = share * (_sized(part.values, layer, part.module) - _bias(layer))
        return Delta(layer.start, layer.end, constant=change.to(like))
    if tuple(part.values.shape) != layer.shape:
        raise _misfit(part.module, layer, part.values)
    weight = part.values if share == 1.0 else part.values * share
    keep = torch.full((layer.shape[0],), -share)
    constant = None if layer.bias is None else share * _bias(layer)
    return Delta(layer.start, layer.end, weight.to(like), None, keep.to(like), _to(constant, like))


def _chosen_rows(part: TokenRows, layer: Layer) -> Delta:
    """Trained tokens in the head, whose outputs they are."""
    _check_tokens(part, layer.shape[0], layer.in_features)
    like, count = layer.like, len(part.tokens)
    constant = None if layer.bias is None else part.share * _bias(layer)[part.tokens]
    return Delta(
        layer.start,
        layer.end,
        (part.rows * part.share).to(like),
        None,
        torch.full((count,), -part.share).to(like),
        _to(constant, like),
        part.tokens.to(like.device),
    )


def _check_tokens(part: TokenRows, vocab_size: int, hidden_size: int) -> None:
    is_within = bool(((part.tokens >= 0) & (part.tokens < vocab_size)).all())
    if not is_within or tuple(part.rows.shape) != (len(part.tokens), hidden_size):
        raise FormatError(
            f"adapter for {part.module} has {tuple(part.rows.shape)} for {len(part.tokens)} "
            f"tokens, the base has {vocab_size} rows of {hidden_size}"
        )


def _sized(vector: Tensor, layer: Layer, module: str) -> Tensor:
    if tuple(vector.shape) != layer.shape[:1]:
        raise _misfit(module, layer, vector)
    return vector


def _bias(layer: Layer) -> Tensor:
    if layer.bias is None:
        return torch.zeros(layer.shape[0])
    return layer.bias[layer.start : layer.end].float().cpu()


def _to(vector: Tensor | None, like: Tensor) -> Tensor | None:
    return None if vector is None else vector.to(like)


def _misfit(module: str, layer: Layer, *tensors: Tensor) -> FormatError:
    shapes = " and ".join(str(tuple(tensor.shape)) for tensor in tensors)
    return FormatError(f"adapter for {module} is {shapes}, the base is {layer.shape}")
