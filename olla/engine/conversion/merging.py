"""What parts of adapters make of one parameter, in full size: merging for good.

Knows one parameter at a time, torch's way round; whose it is, is the caller's matter.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from olla.engine.parts import LowRank, Part, Replaced, TokenRows
from olla.errors import FormatError


def merged(parts: Iterable[Part], name: str, weight: Tensor, *, is_table: bool = False) -> Tensor:
    """A parameter with all that parts, in their order, change of it.

    Args:
        name: what the parameter is called; one that ends in ".bias" is the module's bias.
        weight: the base's own values, float32.
        is_table: it is an embedding, (vocab_size, hidden_size), not a linear.

    Raises:
        FormatError: one does not fit, or a DoRA comes after a bias that it would have to scale.
    """
    values = weight
    has_bias = False
    for part in parts:
        if isinstance(part, LowRank):
            if has_bias and part.magnitude is not None:
                raise FormatError(
                    f"a DoRA of {part.module} comes after an adapter with lora_bias, which cannot "
                    "be merged: name the DoRA first"
                )
            has_bias = has_bias or part.bias is not None
        try:
            values = values + part.share * _change(part, name, weight, values, is_table)
        except (RuntimeError, IndexError) as error:
            raise FormatError(f"the adapter does not fit {name}: {error}") from error
    return values


def parameters_of(part: Part) -> list[str]:
    """The parameters of its module that a part changes."""
    if isinstance(part, Replaced):
        return [part.parameter]
    has_bias = isinstance(part, LowRank) and part.bias is not None
    return ["weight", "bias"] if has_bias else ["weight"]


def _change(part: Part, name: str, weight: Tensor, before: Tensor, is_table: bool) -> Tensor:
    """The whole of it, whatever the user's scale; `before`: what other parts made of the weight."""
    if isinstance(part, Replaced):
        return part.values - weight
    if isinstance(part, TokenRows):
        change = torch.zeros_like(weight)
        change[part.tokens] = part.rows - weight[part.tokens]
        return change
    if name.endswith(".bias"):
        assert part.bias is not None
        return part.bias.expand_as(weight)
    product = part.b @ part.a
    return (
        _with_magnitude(part, weight.T, before.T, product).T
        if is_table
        else _with_magnitude(part, weight, before, product)
    )


def _with_magnitude(part: LowRank, weight: Tensor, before: Tensor, product: Tensor) -> Tensor:
    """(out_features, in_features) each. DoRA brings the rows of weight + product to its lengths,
    and scales what earlier parts added as much."""
    if part.magnitude is None:
        return product + torch.zeros_like(weight)  # of the weight's shape, or it does not fit
    lengths = torch.linalg.vector_norm(weight + product, dim=1, keepdim=True)
    scaled: Tensor = (before + product) * (part.magnitude[:, None] / lengths)
    return scaled - before
