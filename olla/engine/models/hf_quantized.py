"""A model of transformers with the weights of its linears and its embedding quantized.

Its modules are replaced one by one, so that the floats of one at a time stand beside what becomes
of them. Knows modules by their types alone; those with a type of their own stay what they are.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from olla.engine.matrices import GROUP, Matrices, Matrix
from olla.engine.weights.checkpoint import Storage
from olla.engine.weights.four_bit import quantize


class Quantizing(NamedTuple):
    """What matrices are quantized to, and what makes them."""

    wanted: Storage
    matrices: Matrices


class QuantizedLinear(nn.Module):
    """`x @ matrix.T + bias`. `weight` tells whoever asks its dtype, and holds nothing."""

    matrix: Matrix
    bias: Tensor | None

    def __init__(self, matrix: Matrix, bias: Tensor | None) -> None:
        super().__init__()
        self.matrix = matrix
        self.bias = None if bias is None else bias.detach().to(matrix.like)
        self.weight = matrix.like

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        outputs = self.matrix.multiply(inputs.reshape(-1, inputs.shape[-1]))
        if self.bias is not None:
            outputs += self.bias
        return outputs.view(*inputs.shape[:-1], -1)


class QuantizedEmbedding(nn.Module):
    """Rows of a matrix, of which a tied head has the same."""

    matrix: Matrix

    def __init__(self, matrix: Matrix) -> None:
        super().__init__()
        self.matrix = matrix
        self.weight = matrix.like

    def forward(self, tokens: Tensor) -> Tensor:
        """(...) int64 -> (..., hidden_size)."""
        return self.matrix.rows(tokens.flatten()).view(*tokens.shape, -1)


def quantize_modules(model: Any, quantizing: Quantizing) -> None:
    """Replace the linears and the embedding of a model.

    Four bits are for the layers alone: the embedding and the head get eight.
    """
    matrices = quantizing.matrices
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    is_tied = head is not None and head.weight is embedding.weight
    table = None
    if type(embedding) is nn.Embedding and _fits(embedding.weight):
        table = matrices.eight_bit(embedding.weight.detach().float())
        model.set_input_embeddings(QuantizedEmbedding(table))
    for name, module in list(model.named_modules()):
        weight = _weight(module)
        if weight is None or not _fits(weight):
            continue
        if module is not head:
            matrix = _quantized(weight, quantizing)
        elif is_tied and table is not None:
            matrix = table
        else:
            matrix = matrices.eight_bit(weight.float())
        bias: Any = module.bias
        model.set_submodule(name, QuantizedLinear(matrix, bias))


def quantized_bytes(model: Any) -> int:
    """Memory of the matrices; one that embedding and head share counts once."""
    kinds = (QuantizedLinear, QuantizedEmbedding)
    return sum(m.num_bytes for m in {m.matrix for m in model.modules() if isinstance(m, kinds)})


def _weight(module: nn.Module) -> Tensor | None:
    """(out_features, in_features); None for what is no plain linear."""
    if type(module) is nn.Linear:
        return module.weight.detach()
    if type(module) is Conv1D:
        transposed: Tensor = module.weight.detach().T  # type: ignore[operator]
        return transposed.contiguous()
    return None


def _fits(weight: Tensor) -> bool:
    return weight.shape[1] % GROUP == 0


def _quantized(weight: Tensor, quantizing: Quantizing) -> Matrix:
    rows, columns = weight.shape
    wanted, matrices = quantizing
    if wanted is Storage.FOUR_BIT and matrices.fits_four_bit(rows, columns):
        return matrices.four_bit(quantize(weight.float()))
    return matrices.eight_bit(weight.float())
