"""Checkpoint: what both kinds of weight files offer to the rest of the engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from tokenizers import Tokenizer
from torch import Tensor

from olla.errors import FormatError

OnRead = Callable[[int], None]
"""Told the bytes of each tensor as it is read."""


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """The tokens that begin and end texts.

    `end_ids`: any of them ends a reply. `bos_id`: what raw text gets put before it, if anything.
    `bos_token`, `eos_token`: as templates write them, "" for none.
    """

    bos_id: int | None
    end_ids: frozenset[int]
    bos_token: str = ""
    eos_token: str = ""


class Checkpoint(Protocol):
    """Files of one model, opened: config, tensors and tokenizer under Hugging Face's names."""

    @property
    def config(self) -> Mapping[str, Any]: ...

    @property
    def total_bytes(self) -> int:
        """Bytes of all tensors as they stand in the files."""
        ...

    def read(self, name: str) -> tuple[Tensor, int] | None:
        """A parameter in the file's precision or float32, and its bytes in the file."""
        ...

    def tokenizer(self) -> Tokenizer: ...

    def special_tokens(self, tokenizer: Tokenizer) -> SpecialTokens: ...


class CheckpointParameters:
    """Reads parameters one by one, checks their shapes, and puts them where they are used."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        dtype: torch.dtype,
        device: torch.device,
        on_read: OnRead,
    ) -> None:
        self._checkpoint = checkpoint
        self._dtype = dtype
        self._device = device
        self._on_read = on_read

    def take(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """The parameter `name`.

        Raises:
            FormatError: it is missing or has another shape.
        """
        tensor = self.take_optional(name, shape)
        if tensor is None:
            raise FormatError(f"the weights lack {name}")
        return tensor

    def take_optional(self, name: str, shape: tuple[int, ...]) -> Tensor | None:
        """As `take`, but None for a parameter that is not there."""
        found = self._checkpoint.read(name)
        if found is None:
            return None
        tensor, num_bytes = found
        if tuple(tensor.shape) != shape:
            raise FormatError(f"{name} has shape {tuple(tensor.shape)}, config.json says {shape}")
        self._on_read(num_bytes)
        return tensor.to(device=self._device, dtype=self._dtype)
