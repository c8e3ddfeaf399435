"""ResizedCheckpoint: weights of a base under a config whose vocabulary an adapter enlarged.

The adapter brings the embedding and the head whole; here their added rows are zeros, so that what
it brings fits. config.json says how many rows are the base's own, as `base_vocab_size`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tokenizers import Tokenizer
from torch import Tensor

from olla.engine.matrices import Blocks, BnbTensor, RawTensor
from olla.engine.models.config import read_count
from olla.engine.weights.checkpoint import SpecialTokens, Storage
from olla.engine.weights.safetensors import SafetensorsCheckpoint
from olla.errors import FormatError

ENDS = ("model.embed_tokens.weight", "lm_head.weight")


class ResizedCheckpoint:
    def __init__(self, base: SafetensorsCheckpoint) -> None:
        """
        Raises:
            FormatError: the config has no such sizes.
        """
        self._base = base
        self.config: Mapping[str, Any] = base.config
        self._vocab_size = read_count(base.config, "vocab_size")
        if read_count(base.config, "base_vocab_size") > self._vocab_size:
            raise FormatError("config.json: base_vocab_size is above vocab_size")

    @property
    def total_bytes(self) -> int:
        return self._base.total_bytes

    @property
    def names(self) -> Iterable[str]:
        return self._base.names

    def shape(self, name: str) -> tuple[int, ...] | None:
        shape = self._base.shape(name)
        if shape is None or name not in ENDS:
            return shape
        return (max(self._vocab_size, shape[0]), *shape[1:])

    def read(self, name: str, out: Tensor) -> int:
        own = self._base.shape(name)
        if name not in ENDS or own is None:
            return self._base.read(name, out)
        out[own[0] :] = 0
        return self._base.read(name, out[: own[0]])

    def storage(self, name: str) -> Storage | None:
        storage = self._base.storage(name)
        return Storage.FLOAT if storage is not None and name in ENDS else storage

    def raw(self, name: str) -> RawTensor | BnbTensor | None:
        return None if name in ENDS else self._base.raw(name)

    def read_blocks(self, name: str) -> tuple[Blocks, int]:
        return self._base.read_blocks(name)

    def packed_bytes(self, name: str) -> int:
        return self._base.packed_bytes(name)

    def tokenizer(self) -> Tokenizer:
        return self._base.tokenizer()

    def special_tokens(self, tokenizer: Tokenizer) -> SpecialTokens:
        return self._base.special_tokens(tokenizer)
