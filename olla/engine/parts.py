"""Parts: what an adapter changes of a model, module by module, whatever file told of it.

Knows names and tensors, nothing of the model they are laid over. `share` is the user's scale:
each part is what the adapter would do alone, and that much of it is done.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class LowRank:
    """`b @ a` is added to the weight (out_features, in_features) of a linear.

    a: (rank, in_features). b: (out_features, rank), with alpha's scale in it. An embedding counts
    as a linear of one-hot inputs. `magnitude` (out_features,) makes it DoRA: rows of the sum are
    brought to these lengths. `bias` (out_features,) is added to the output.
    """

    module: str
    a: Tensor
    b: Tensor
    magnitude: Tensor | None = None
    bias: Tensor | None = None
    share: float = 1.0


@dataclass(frozen=True, slots=True)
class Replaced:
    """`values` stand in the place of a module's parameter, "weight" or "bias"."""

    module: str
    parameter: str
    values: Tensor
    share: float = 1.0


@dataclass(frozen=True, slots=True)
class TokenRows:
    """`rows` (count, hidden_size) stand in the place of an embedding's for these `tokens`."""

    module: str
    tokens: Tensor
    rows: Tensor
    share: float = 1.0


Part = LowRank | Replaced | TokenRows


def num_bytes(part: Part) -> int:
    """Memory of its tensors."""
    tensors: tuple[Tensor | None, ...]
    if isinstance(part, LowRank):
        tensors = (part.a, part.b, part.magnitude, part.bias)
    else:
        tensors = (part.values,) if isinstance(part, Replaced) else (part.rows,)
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)
