"""What a part of an adapter changes of one parameter, in full size: merging for good.

Knows one parameter at a time, torch's way round; whose it is, is the caller's matter.
"""

from __future__ import annotations

import torch
from torch import Tensor

from olla.engine.parts import LowRank, Part, Replaced, TokenRows
from olla.errors import FormatError


def change_of(part: Part, name: str, weight: Tensor, *, is_table: bool = False) -> Tensor:
    """What is added to a parameter.

    Args:
        name: what the parameter is called; one that ends in ".bias" is the module's bias.
        weight: the base's own values, float32.
        is_table: it is an embedding, (vocab_size, hidden_size), not a linear.

    Raises:
        FormatError: it does not fit.
    """
    try:
        return part.share * _alone(part, name, weight, is_table)
    except (RuntimeError, IndexError) as error:
        raise FormatError(f"the adapter does not fit {name}: {error}") from error


def parameters_of(part: Part) -> list[str]:
    """The parameters of its module that a part changes."""
    if isinstance(part, Replaced):
        return [part.parameter]
    has_bias = isinstance(part, LowRank) and part.bias is not None
    return ["weight", "bias"] if has_bias else ["weight"]


def _alone(part: Part, name: str, weight: Tensor, is_table: bool) -> Tensor:
    """The whole of it, whatever the user's scale."""
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
        _with_magnitude(part, weight.T, product).T
        if is_table
        else _with_magnitude(part, weight, product)
    )


def _with_magnitude(part: LowRank, weight: Tensor, product: Tensor) -> Tensor:
    """(out_features, in_features) each. DoRA brings the rows of their sum to its lengths."""
    if part.magnitude is None:
        return product + torch.zeros_like(weight)  # of the weight's shape, or it does not fit
    changed = weight + product
    lengths = torch.linalg.vector_norm(changed, dim=1, keepdim=True)
    merged: Tensor = changed * (part.magnitude[:, None] / lengths)
    return merged - weight
