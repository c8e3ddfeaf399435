"""The keys and values that attention looks back on: one growing pair of tensors a sequence.

Knows nothing about schedulers. Grows by half, so that appending stays linear in the length.
"""

from __future__ import annotations

import torch
from torch import Tensor

_FIRST_CAPACITY = 256


class SequenceCache:
    """Keys and values of one sequence, (num_layers, num_kv_heads, capacity, head_dim) each."""

    def __init__(
        self,
        num_layers: int,
        num_kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.length = 0
        self._keys = torch.empty(
            (num_layers, num_kv_heads, 0, head_dim), dtype=dtype, device=device
        )
        self._values = torch.empty_like(self._keys)

    def reserve(self, num_tokens: int) -> None:
        """Make room for `num_tokens` more; called once a step, before the first `append`."""
        needed = self.length + num_tokens
        capacity = self._keys.shape[2]
        if needed <= capacity:
            return
        capacity = max(needed, capacity + capacity // 2, _FIRST_CAPACITY)
        self._keys = self._grown(self._keys, capacity)
        self._values = self._grown(self._values, capacity)

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store the step's (num_tokens, num_kv_heads, head_dim) of one layer.

        Returns:
            All keys and values of the layer so far, (num_kv_heads, length + num_tokens, head_dim).
        """
        end = self.length + keys.shape[0]
        self._keys[layer, :, self.length : end] = keys.transpose(0, 1)
        self._values[layer, :, self.length : end] = values.transpose(0, 1)
        return self._keys[layer, :, :end], self._values[layer, :, :end]

    def advance(self, num_tokens: int) -> None:
        """The step is over: its tokens are part of the past."""
        self.length += num_tokens

    def truncate(self, length: int) -> None:
        """Forget all but the first `length` tokens."""
        self.length = min(self.length, length)

    @property
    def num_bytes(self) -> int:
        return self._keys.nbytes + self._values.nbytes

    def _grown(self, old: Tensor, capacity: int) -> Tensor:
        new = old.new_empty((*old.shape[:2], capacity, old.shape[3]))
        new[:, :, : self.length] = old[:, :, : self.length]
        return new
