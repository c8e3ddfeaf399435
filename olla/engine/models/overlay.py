"""Adapters over the lean decoder: which module each part of one belongs to.

Knows the decoder's modules by name, not how it computes. One projection or embedding by itself is
any model's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from olla.engine.deltas import Layer, delta_of, one_hot, row_delta, stretched
from olla.engine.linear import Delta, Embedding, Linear
from olla.engine.models.norm import RMSNorm
from olla.engine.parts import LowRank, Part, Replaced, TokenRows
from olla.errors import FormatError
from olla.formats.expert_tensors import expert_name

_EMBEDDING, _HEAD = "model.embed_tokens", "lm_head"


class Place(NamedTuple):
    """A projection: the output columns [start, end) of a linear that may hold others too."""

    linear: Linear
    start: int
    end: int


Module = Place | RMSNorm | Embedding


class Overlaid(Protocol):
    """What is asked of a decoder."""

    @property
    def ties_head(self) -> bool: ...

    def modules(self) -> Iterator[tuple[str, Module]]: ...


def lay_over(decoder: Overlaid, adapter: int, parts: Sequence[Part]) -> None:
    """Add every part to its module.

    Raises:
        FormatError: there is no such module, or a part does not fit it.
    """
    modules = dict(decoder.modules())
    for part in parts:
        module = modules.get(expert_name(part.module)) or _expert(modules, part)
        if module is None:
            raise FormatError(f"the base model has no module {part.module}")
        if isinstance(part, TokenRows) and part.module not in {_EMBEDDING, _HEAD}:
            raise FormatError(f"{part.module} has no tokens that could be trained")
        _lay(module, adapter, part)
        if isinstance(part, TokenRows) and part.module == _EMBEDDING and decoder.ties_head:
            _lay(modules[_HEAD], adapter, part)


def _expert(modules: Mapping[str, Module], part: Part) -> Module | None:
    """The one of an expert's two matrices that a part fits: peft does not say which it is."""
    for projection in ("gate_up_proj", "down_proj"):
        module = modules.get(f"{expert_name(part.module)}.{projection}")
        if isinstance(module, Place) and isinstance(part, LowRank):
            inputs, outputs = module.linear.weight.shape[1], module.end - module.start
            if (part.a.shape[1], part.b.shape[0]) == (inputs, outputs):
                return module
    return None


def take_off(decoder: Overlaid, adapter: int) -> None:
    """Remove whatever an adapter added."""
    for _, module in decoder.modules():
        if isinstance(module, RMSNorm):
            module.replaced.pop(adapter, None)
        else:
            take_off_deltas(module, adapter)


def take_off_deltas(module: Place | Embedding, adapter: int) -> None:
    """Remove what an adapter added to one projection or embedding."""
    if isinstance(module, Place):
        module.linear.deltas.pop(adapter, None)
    else:
        module.deltas.pop(adapter, None)
        module.row_deltas.pop(adapter, None)


def lay_deltas(module: Place | Embedding, adapter: int, part: Part) -> None:
    """Add a part to one projection or embedding.

    Raises:
        FormatError: it does not fit.
    """
    if isinstance(module, Place):
        delta = delta_of(part, _projection(module))
        _add(module.linear.deltas.setdefault(adapter, []), part, delta)
    elif isinstance(part, TokenRows):
        change = row_delta(part, _table(module))
        module.row_deltas.setdefault(adapter, []).append(change)
    else:
        delta = delta_of(one_hot(part), _table(module))
        _add(module.deltas.setdefault(adapter, []), part, delta)


def _add(deltas: list[Delta], part: Part, delta: Delta) -> None:
    if isinstance(part, LowRank) and part.magnitude is not None:
        place = (delta.start, delta.end)
        deltas[:] = [
            stretched(old, delta) if (old.start, old.end) == place else old for old in deltas
        ]
    deltas.append(delta)


def _lay(module: Module, adapter: int, part: Part) -> None:
    if not isinstance(module, RMSNorm):
        lay_deltas(module, adapter, part)
    elif isinstance(part, Replaced):
        module.replace(adapter, part)
    else:
        raise FormatError(f"{part.module} is a norm, over which no LoRA can lie")


def _projection(place: Place) -> Layer:
    linear, start, end = place
    weight = linear.weight

    def rows(first: int, last: int) -> Tensor:
        numbers = torch.arange(start + first, start + last, device=weight.like.device)
        return weight.rows(numbers)

    return Layer(start, end, weight.shape[1], rows, linear.bias, weight.like)


def _table(embedding: Embedding) -> Layer:
    """An embedding as a linear of one-hot inputs: its weight is the table's transpose."""
    table = embedding.table

    def rows(first: int, last: int) -> Tensor:
        numbers = torch.arange(table.shape[0], device=table.like.device)
        return table.rows(numbers)[:, first:last].T

    return Layer(0, table.shape[1], table.shape[0], rows, None, table.like)
