"""Checkpoint: what both kinds of weight files offer to the rest of the engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

import torch
from tokenizers import Tokenizer
from torch import Tensor

from olla.engine.matrices import Blocks, BnbTensor, Matrices, Matrix, RawTensor, TorchMatrices
from olla.engine.matrices_cuda import BnbMatrix
from olla.engine.weights.four_bit import quantize
from olla.errors import FormatError

OnRead = Callable[[int], None]
"""Told the bytes of each tensor as it is read."""

LAYERS = "model.layers."
_CPU = torch.device("cpu")


class Storage(StrEnum):
    """How many bits a file spends on each number of a parameter, as far as it matters here."""

    FLOAT = "float"
    EIGHT_BIT = "eight_bit"
    FOUR_BIT = "four_bit"
    PACKED = "packed"  # by bitsandbytes: kept as it is or in floats, never rounded again


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

    @property
    def names(self) -> Iterable[str]:
        """All parameters."""
        ...

    def shape(self, name: str) -> tuple[int, ...] | None:
        """A parameter's shape; None for one that is not there."""
        ...

    def read(self, name: str, out: Tensor) -> int:
        """Fill `out`, of the parameter's shape and any precision; its bytes in the file.

        The values come piece by piece: nothing of the parameter's size is held beside `out`.
        """
        ...

    def storage(self, name: str) -> Storage | None:
        """How the file holds a parameter; None for one that is not there."""
        ...

    def raw(self, name: str) -> RawTensor | BnbTensor | None:
        """A matrix as it stands in the file, if it can be used so."""
        ...

    def read_blocks(self, name: str) -> tuple[Blocks, int]:
        """A parameter whose storage is FOUR_BIT, and its bytes in the file."""
        ...

    def packed_bytes(self, name: str) -> int:
        """The bytes in the file of a parameter whose storage is PACKED."""
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
        keep_quantized: bool = False,
        wanted: Storage | None = None,
        device_of: Callable[[str], torch.device] | None = None,
        matrices: Matrices | None = None,
    ) -> None:
        """Args:
        keep_quantized: what the file has quantized stays so in memory, else all is `dtype`.
        wanted: the precision that matrices get whatever the file's is; None leaves it to the
            file. Four bits are for the layers alone: the embedding and the head get eight.
        device_of: where a parameter goes, by its name; all to `device` without it.
        matrices: what makes the matrices; torch without it.
        """
        self._checkpoint = checkpoint
        self._dtype = dtype
        self._on_read = on_read
        self._keep_quantized = keep_quantized
        self._wanted = wanted
        self._device_of = device_of or (lambda _name: device)
        self._matrices = matrices or TorchMatrices()

    def take(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """The parameter `name`, in the precision that is computed in.

        Raises:
            FormatError: it is missing or has another shape.
        """
        return self._read(name, shape, self._dtype)

    def take_optional(
        self, name: str, shape: tuple[int, ...], dtype: torch.dtype | None = None
    ) -> Tensor | None:
        """As `take`, but None for a parameter that is not there; `dtype` overrides the model's."""
        if self._checkpoint.storage(name) is None:
            return None
        return self._read(name, shape, dtype or self._dtype)

    def matrix(self, parts: Mapping[str, int], in_features: int) -> Matrix:
        """Matrices of one input side by side, in the precision that they are kept in.

        Args:
            parts: their names, and the rows of each.

        Raises:
            FormatError: as for `take`.
        """
        filed = {name: self._filed(name, rows, in_features) for name, rows in parts.items()}
        if any(filed.values()):
            return self._matrices.stack(
                [filed[name] or self.table(name, rows, in_features) for name, rows in parts.items()]
            )
        kinds = {self._kind(name, rows, in_features) for name, rows in parts.items()}
        device = self._device_of(next(iter(parts)))
        if device.type == "cuda" and kinds != {Storage.FLOAT}:
            shapes = {name: (rows, in_features) for name, rows in parts.items()}
            weights = self._read_side_by_side(shapes, in_features, self._dtype, _CPU)
            return BnbMatrix(weights, device, is_four_bit=self._wanted is Storage.FOUR_BIT)
        if len(kinds) == 1:
            return self._fused(parts, in_features, kinds.pop())
        return self._matrices.stack(
            [self.matrix({name: rows}, in_features) for name, rows in parts.items()]
        )

    def table(self, name: str, rows: int, columns: int) -> Matrix:
        """One matrix, whose rows can be looked up.

        Raises:
            FormatError: as for `take`.
        """
        if (filed := self._filed(name, rows, columns)) is not None:
            return filed
        is_on_gpu = self._device_of(name).type == "cuda"  # where only products are quantized
        kind = Storage.FLOAT if is_on_gpu else self._kind(name, rows, columns)
        return self._fused({name: rows}, columns, kind)

    def float_matrix(self, name: str, rows: int, in_features: int) -> Matrix:
        """One matrix that stays in floats, whatever the others are.

        Raises:
            FormatError: as for `take`.
        """
        return self._fused({name: rows}, in_features, Storage.FLOAT)

    def matrix_optional(self, name: str, rows: int, in_features: int) -> Matrix | None:
        """As `matrix`, but None for a parameter that is not there."""
        return self.matrix({name: rows}, in_features) if self._checkpoint.storage(name) else None

    def _filed(self, name: str, rows: int, in_features: int) -> Matrix | None:
        """A matrix of the file's own blocks, if those can be used as they are."""
        if self._wanted is not None or not self._keep_quantized:
            return None
        raw = self._checkpoint.raw(name)
        if raw is None:
            return None
        self._check(name, (rows, in_features))
        table = self._matrices.filed(raw, self._device_of(name))
        if table is not None:
            self._on_read(raw.done())
        return table

    def _kind(self, name: str, rows: int, in_features: int) -> Storage:
        """How a matrix is to be kept."""
        storage = self._checkpoint.storage(name)
        if storage is None:
            return Storage.FLOAT
        if self._wanted is not None:
            storage = self._wanted_for(name, storage)
        elif not self._keep_quantized or storage is Storage.PACKED:
            return Storage.FLOAT
        fits = self._matrices.fits_four_bit(rows, in_features)
        return Storage.EIGHT_BIT if storage is Storage.FOUR_BIT and not fits else storage

    def _wanted_for(self, name: str, storage: Storage) -> Storage:
        is_rounded = self._wanted is Storage.FOUR_BIT and storage is not Storage.FOUR_BIT
        if is_rounded and not name.startswith(LAYERS):
            return Storage.EIGHT_BIT
        return self._wanted or storage

    def _fused(self, parts: Mapping[str, int], in_features: int, kind: Storage) -> Matrix:
        shapes = {name: (rows, in_features) for name, rows in parts.items()}
        if kind is Storage.FOUR_BIT:
            blocks = [self._blocks(name, shape) for name, shape in shapes.items()]
            whole = Blocks(*(torch.cat(columns) for columns in zip(*blocks, strict=True)))
            return self._matrices.four_bit(whole)
        dtype = torch.float32 if kind is Storage.EIGHT_BIT else self._dtype
        device = self._device_of(next(iter(parts)))
        weights = self._read_side_by_side(shapes, in_features, dtype, device)
        if kind is Storage.EIGHT_BIT:
            return self._matrices.eight_bit(weights)
        return self._matrices.dense(weights)

    def _blocks(self, name: str, shape: tuple[int, int]) -> Blocks:
        if self._checkpoint.storage(name) is not Storage.FOUR_BIT:
            return quantize(self._read(name, shape, torch.float32))
        return self._read_blocks(name, shape)

    def _read_side_by_side(
        self,
        shapes: Mapping[str, tuple[int, int]],
        in_features: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> Tensor:
        for name, shape in shapes.items():
            self._check(name, shape)
        num_rows = sum(rows for rows, _ in shapes.values())
        whole = torch.empty((num_rows, in_features), dtype=dtype, device=device)
        start = 0
        for name, (rows, _) in shapes.items():
            self._on_read(self._checkpoint.read(name, whole[start : start + rows]))
            start += rows
        return whole

    def _read(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        self._check(name, shape)
        tensor = torch.empty(shape, dtype=dtype, device=self._device_of(name))
        self._on_read(self._checkpoint.read(name, tensor))
        return tensor

    def _read_blocks(self, name: str, shape: tuple[int, ...]) -> Blocks:
        self._check(name, shape)
        blocks, num_bytes = self._checkpoint.read_blocks(name)
        self._on_read(num_bytes)
        return blocks

    def _check(self, name: str, shape: tuple[int, ...]) -> None:
        found = self._checkpoint.shape(name)
        if found is None:
            raise FormatError(f"the weights lack {name}")
        if found != shape:
            raise FormatError(f"{name} has shape {found}, config.json says {shape}")
