"""KVCache: the tensors that the block numbers index.

One place for each token of every block, for each layer. A layer's tensors are made when its first
keys come, in their shape, since not every architecture's layers are alike.
"""

from __future__ import annotations

import torch
from torch import Tensor


class KVCache:
    """`num_slots` places of keys and values for each layer, (num_slots, num_kv_heads, head_dim)."""

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    def write(self, layer: int, slots: Tensor, keys: Tensor, values: Tensor) -> None:
        """Store a step's (num_tokens, num_kv_heads, head_dim) at `slots` (num_tokens,)."""
        if layer not in self._layers:
            self._layers[layer] = (self._like(keys), self._like(values))
        cached_keys, cached_values = self._layers[layer]
        cached_keys.index_copy_(0, slots, keys)
        cached_values.index_copy_(0, slots, values)

    def read(self, layer: int, slots: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Keys and values of one sequence, (num_kv_heads, length, head_dim) each.

        A slice, for a sequence whose blocks lie side by side, is read without a copy.
        """
        keys, values = self._layers[layer]
        return keys[slots].transpose(0, 1), values[slots].transpose(0, 1)

    def whole(self, layer: int) -> tuple[Tensor, Tensor]:
        """A layer's keys and values, those of all slots."""
        return self._layers[layer]

    def layer(
        self, layer: int, shape: tuple[int, ...], dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """A layer's whole tensors on the CPU, for a model that has a shape of its own for them."""
        if layer not in self._layers:
            keys = torch.empty(shape, dtype=dtype)
            self._layers[layer] = (keys, torch.empty_like(keys))
        return self._layers[layer]

    @property
    def num_layers(self) -> int:
        """Layers that have written something."""
        return len(self._layers)

    @property
    def num_bytes(self) -> int:
        return sum(keys.nbytes + values.nbytes for keys, values in self._layers.values())

    def _like(self, states: Tensor) -> Tensor:
        # Untouched memory costs nothing until it is written, on the CPU at least.
        return torch.empty(
            (self.num_slots, *states.shape[1:]), dtype=states.dtype, device=states.device
        )
