"""SafetensorsCheckpoint: the files of a Hugging Face repository.

Files come as a mapping of their names to paths, since in the store they are blobs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from olla.engine.matrices import Blocks, BnbTensor, RawTensor
from olla.engine.weights.bnb import companion_dtypes, dequantize_into
from olla.engine.weights.checkpoint import SpecialTokens, Storage
from olla.engine.weights.mapped import MappedFile
from olla.errors import FormatError
from olla.formats.bitsandbytes import parameters, quantization_method, scales_name
from olla.formats.expert_tensors import unstacked
from olla.formats.ggml_types import GgmlType
from olla.formats.safetensors import SafetensorsTensor, read_safetensors

_CHUNK = 2**21  # elements copied at once: some megabytes, whatever the tensor's size
_TYPES = {"F32": GgmlType.F32, "F16": GgmlType.F16, "BF16": GgmlType.BF16}
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}


class TensorFiles:
    """Tensors of several safetensors files by name, read through memory maps."""

    def __init__(self, paths: list[Path], *, unstacks: bool = False) -> None:
        """`unstacks`: experts held in one tensor are a tensor each."""
        self._where: dict[str, tuple[Path, SafetensorsTensor]] = {}
        self._maps: dict[Path, MappedFile] = {}
        for path in paths:
            for found in read_safetensors(path).tensors:
                for tensor in unstacked(found) if unstacks else (found,):
                    self._where[tensor.name] = (path, tensor)

    def __contains__(self, name: str) -> bool:
        return name in self._where

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    @property
    def total_bytes(self) -> int:
        return sum(tensor.size_bytes for _, tensor in self._where.values())

    def shape(self, name: str) -> tuple[int, ...] | None:
        found = self._where.get(name)
        return None if found is None else found[1].shape

    def read(self, name: str, out: Tensor) -> int:
        """Fill `out`, of the tensor's shape; returns the tensor's bytes.

        Raises:
            FormatError: not of floating point.
        """
        path, tensor = self._where[name]
        dtype = _DTYPES.get(tensor.dtype)
        if dtype is None:
            raise FormatError(f"{name}: cannot read weights of type {tensor.dtype}")
        mapped, flat = self._map(path), out.view(-1)
        for first in range(0, flat.numel(), _CHUNK):
            last = min(first + _CHUNK, flat.numel())
            start, end = (tensor.offset + place * dtype.itemsize for place in (first, last))
            # A copy, since a file may place a tensor off its type's alignment.
            flat[first:last] = torch.from_numpy(mapped.bytes[start:end].copy()).view(dtype)
            mapped.drop(start, end - start)
        return tensor.size_bytes

    def raw(self, name: str) -> RawTensor | None:
        """A matrix as it stands in the file; None for what is none."""
        path, tensor = self._where.get(name, (None, None))
        if path is None or tensor is None or len(tensor.shape) != 2 or tensor.dtype not in _TYPES:
            return None
        mapped, (rows, columns) = self._map(path), tensor.shape

        def done() -> int:
            mapped.drop(tensor.offset, tensor.size_bytes)
            return tensor.size_bytes

        data = mapped.bytes[tensor.offset : tensor.offset + tensor.size_bytes]
        return RawTensor(_TYPES[tensor.dtype], (rows, columns), data, None, done)

    def get(self, name: str) -> Tensor | None:
        """A tensor in float32; None when there is none. Raises as `read`."""
        shape = self.shape(name)
        if shape is None:
            return None
        out = torch.empty(shape)
        self.read(name, out)
        return out

    def bytes_of(self, name: str) -> Tensor:
        """(size,) uint8."""
        path, tensor = self._where[name]
        mapped = self._map(path)
        end = tensor.offset + tensor.size_bytes
        copied = torch.from_numpy(mapped.bytes[tensor.offset : end].copy())
        mapped.drop(tensor.offset, tensor.size_bytes)
        return copied

    @property
    def placed(self) -> Iterable[tuple[Path, SafetensorsTensor]]:
        """Every tensor with its file."""
        return self._where.values()

    def _map(self, path: Path) -> MappedFile:
        if path not in self._maps:
            self._maps[path] = MappedFile(path)
        return self._maps[path]


class SafetensorsCheckpoint:
    """Weights in floats, or as bitsandbytes packs them: those are read as what they stand for."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        """Open a repository.

        Raises:
            FormatError: a file is missing or broken.
        """
        self._files = files
        self.config = read_json(files, "config.json")
        self._tensors = TensorFiles(
            [path for name, path in sorted(files.items()) if name.endswith(".safetensors")],
            unstacks=True,
        )
        method = quantization_method(self.config)
        if method not in {"", "bitsandbytes"}:
            raise FormatError(
                f"the weights are quantized by {method}, which olla does not read; take the "
                "repository in floats, in GGUF, or quantized by bitsandbytes"
            )
        self._parameters = parameters(self._tensors.placed) if method else {}

    @property
    def total_bytes(self) -> int:
        return self._tensors.total_bytes

    @property
    def names(self) -> Iterable[str]:
        return self._parameters or self._tensors

    def shape(self, name: str) -> tuple[int, ...] | None:
        packed = self._parameters.get(name)
        return self._tensors.shape(name) if packed is None else packed.shape

    def read(self, name: str, out: Tensor) -> int:
        if not self._is_packed(name):
            return self._tensors.read(name, out)
        packed = self._packed(name)
        dequantize_into(packed, out)
        return packed.num_bytes

    def storage(self, name: str) -> Storage | None:
        if self._is_packed(name):
            return Storage.PACKED
        return Storage.FLOAT if name in self._tensors else None

    def raw(self, name: str) -> RawTensor | BnbTensor | None:
        return self._packed(name) if self._is_packed(name) else self._tensors.raw(name)

    def _packed(self, name: str) -> BnbTensor:
        parameter = self._parameters[name]
        values = self._tensors.bytes_of(name)
        if parameter.state is None:
            scales = self._tensors.get(scales_name(name))
            assert scales is not None, "formats.bitsandbytes has looked"
            return BnbTensor.of(parameter.shape, values.view(torch.int8), {"SCB": scales}, None)
        companions = {
            end: self._tensors.bytes_of(f"{name}.{end}").view(dtype)
            for end, dtype in companion_dtypes(parameter.state)
        }
        return BnbTensor.of(parameter.shape, values, companions, parameter.state)

    def _is_packed(self, name: str) -> bool:
        return name in self._parameters and self._parameters[name].quant_type != ""

    def read_blocks(self, name: str) -> tuple[Blocks, int]:
        raise AssertionError(f"{name} is not stored in four bits")

    def packed_bytes(self, name: str) -> int:
        return self._parameters[name].packed_bytes

    def tokenizer(self) -> Tokenizer:
        """The repository's tokenizer.json.

        Raises:
            FormatError: it is missing or cannot be read.
        """
        path = self._files.get("tokenizer.json")
        if path is None:
            raise FormatError(
                "the model has no tokenizer.json; save it again with a fast tokenizer"
            )
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:
            raise FormatError(f"tokenizer.json cannot be read: {error}") from error
        # What training left in the file would cut or fill up prompts.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    def special_tokens(self, tokenizer: Tokenizer) -> SpecialTokens:
        settings = read_json(self._files, "tokenizer_config.json", required=False)
        generation = read_json(self._files, "generation_config.json", required=False)
        bos_token, eos_token = (_content(settings.get(f"{kind}_token")) for kind in ("bos", "eos"))
        ends = {tokenizer.token_to_id(eos_token)} if eos_token else set()
        for config in (self.config, generation):
            ids = config.get("eos_token_id")
            ends |= set(ids) if isinstance(ids, list) else {ids}
        # What the tokenizer puts before an empty text tells whether it adds a first token.
        added = tokenizer.encode("").ids
        bos_id = tokenizer.token_to_id(bos_token) if bos_token else None
        return SpecialTokens(
            bos_id=bos_id if bos_id is not None and added[:1] == [bos_id] else None,
            end_ids=frozenset(end for end in ends if isinstance(end, int)),
            bos_token=bos_token,
            eos_token=eos_token,
        )


def read_json(files: Mapping[str, Path], name: str, required: bool = True) -> dict[str, Any]:
    """A JSON object among the files; empty when it is absent and not required.

    Raises:
        FormatError: missing, not JSON or not an object.
    """
    path = files.get(name)
    if path is None:
        if required:
            raise FormatError(f"the model has no {name}")
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FormatError(f"{name} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise FormatError(f"{name} is not a JSON object")
    return value


def _content(token: object) -> str:
    """A token of tokenizer_config.json: text, or an object that has it as `content`."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else ""
