"""GgufCheckpoint: a GGUF file as a Hugging Face checkpoint.

Quantized blocks become float32 by the `gguf` package's dequantization, one tensor at a time from
the memory map. What llama.cpp's converter changed is undone, so that every parameter, and so
every adapter, means what it means in transformers: rows of queries and keys that were interleaved
for its rotary layout, and Gemma's norms, stored there with one added.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias

import gguf
import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from olla.engine.matrices import Blocks
from olla.engine.weights.checkpoint import SpecialTokens, Storage
from olla.engine.weights.four_bit import FOUR_BIT_TYPES, four_bit_blocks
from olla.engine.weights.gguf_config import config_from_metadata
from olla.engine.weights.gguf_tokenizer import frame_texts, tokenizer_from_metadata
from olla.errors import FormatError
from olla.formats.ggml_types import GgmlType
from olla.formats.gguf import GgufFile, GgufTensor, read_gguf
from olla.formats.tensor_names import hf_name

Floats: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]

_CHUNK = 2**20  # elements turned into floats at once: some megabytes, whatever the tensor's size
_FLOATS = frozenset({GgmlType.F32, GgmlType.F16, GgmlType.BF16})
_INTERLEAVED = frozenset({"llama", "granite", "smollm3"})
_NORMS_PLUS_ONE = frozenset({"gemma2", "gemma3"})
# Tensors that have no parameter in the Hugging Face checkpoint, under the names they have here.
_EXTRA = ("rope_freqs.weight",)
_REFUSED = {"rope_factors_long.weight": 'unsupported rotary scaling "longrope"'}

# Tokens that end a turn, whatever the metadata says (llama.cpp, src/llama-vocab.cpp).
_END_TEXTS = (
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|eom_id|>",
    "<EOT>",
    "<|end_of_text|>",
    "<end_of_utterance>",
)


class GgufCheckpoint:
    def __init__(self, path: Path) -> None:
        """Open a file.

        Raises:
            FormatError: broken, or of an architecture that olla does not run.
        """
        self._file: GgufFile = read_gguf(path)
        self._metadata: Mapping[str, Any] = self._file.metadata
        self._architecture = str(self._metadata.get("general.architecture"))
        self._tensors = self._by_hf_name()
        embedding = self._tensors.get("model.embed_tokens.weight")
        rows = embedding.shape[0] if embedding is not None else 0
        self.config = config_from_metadata(self._metadata, rows)
        # A plain view of the map: numpy's memmap class pays for itself at every slice.
        self._bytes = np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))

    @property
    def total_bytes(self) -> int:
        return sum(tensor.size_bytes for tensor in self._tensors.values())

    def read(self, name: str) -> tuple[Tensor, int] | None:
        tensor = self._tensors.get(name)
        if tensor is None:
            return None
        array = self._dequantized(tensor)
        return self._restored(name, torch.from_numpy(array)), tensor.size_bytes

    def storage(self, name: str) -> Storage | None:
        tensor = self._tensors.get(name)
        if tensor is None or tensor.type in _FLOATS:
            return None if tensor is None else Storage.FLOAT
        return Storage.FOUR_BIT if tensor.type in FOUR_BIT_TYPES else Storage.EIGHT_BIT

    def read_blocks(self, name: str) -> tuple[Blocks, int]:
        tensor = self._tensors[name]
        raw = self._bytes[tensor.offset : tensor.offset + tensor.size_bytes]
        blocks = four_bit_blocks(raw, tensor.type, tensor.shape)
        return Blocks(*(self._restored(name, part) for part in blocks)), tensor.size_bytes

    def tokenizer(self) -> Tokenizer:
        tokenizer = tokenizer_from_metadata(self._metadata)
        adds_eos = bool(self._metadata.get("tokenizer.ggml.add_eos_token"))
        bos = self._token_id("bos") if self._adds_bos() else None
        frame_texts(tokenizer, bos, self._token_id("eos") if adds_eos else None)
        return tokenizer

    def special_tokens(self, tokenizer: Tokenizer) -> SpecialTokens:
        bos = self._token_id("bos")
        eos = self._token_id("eos")
        ends = {eos, self._token_id("eot"), self._token_id("eom")}
        ends |= {self._control_id(tokenizer, text) for text in _END_TEXTS}
        return SpecialTokens(
            bos_id=bos if self._adds_bos() else None,
            end_ids=frozenset(end for end in ends if end is not None),
            bos_token=_text(tokenizer, bos),
            eos_token=_text(tokenizer, eos),
        )

    def _by_hf_name(self) -> dict[str, GgufTensor]:
        named = {}
        for tensor in self._file.tensors:
            if tensor.name in _REFUSED:
                raise FormatError(_REFUSED[tensor.name])
            name = hf_name(self._architecture, tensor.name)
            if name is None and tensor.name in _EXTRA:
                name = tensor.name
            if name is not None:
                named[name] = tensor
        return named

    def _dequantized(self, tensor: GgufTensor) -> Floats:
        """Raises FormatError for a quantization that the package cannot undo."""
        kind = gguf.GGMLQuantizationType(int(tensor.type))
        block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        values = np.empty(math.prod(tensor.shape), dtype=np.float32)
        raw = self._bytes[tensor.offset : tensor.offset + tensor.size_bytes]
        chunk = _CHUNK // block

        def fill(first: int) -> None:
            # As one row: the package goes over rows sixteen at a time, which is four times slower.
            part = raw[first * block_bytes : (first + chunk) * block_bytes].reshape(1, -1)
            values[first * block : (first + chunk) * block] = gguf.quants.dequantize(part, kind)[0]

        try:
            # numpy lets go of the interpreter's lock, so the cores share the work.
            with ThreadPoolExecutor(os.cpu_count()) as threads:
                list(threads.map(fill, range(0, values.size // block, chunk)))
        except (NotImplementedError, ValueError) as error:
            raise FormatError(f"{tensor.name}: cannot read {tensor.type.name} weights") from error
        return values.reshape(tensor.shape)

    def _restored(self, name: str, tensor: Tensor) -> Tensor:
        if self._architecture in _NORMS_PLUS_ONE and name.endswith("norm.weight"):
            return tensor - 1.0
        if self._architecture in _INTERLEAVED:
            if ".q_proj." in name:
                return _uninterleaved(tensor, self.config["num_attention_heads"])
            if ".k_proj." in name:
                heads = self.config["num_attention_heads"]
                return _uninterleaved(tensor, self.config.get("num_key_value_heads", heads))
        return tensor

    def _adds_bos(self) -> bool:
        """llama.cpp's defaults where the file does not say."""
        default = self._metadata.get("tokenizer.ggml.model") == "llama"
        default = default or self._metadata.get("tokenizer.ggml.pre") == "llama-bpe"
        return bool(self._metadata.get("tokenizer.ggml.add_bos_token", default))

    def _token_id(self, kind: str) -> int | None:
        value = self._metadata.get(f"tokenizer.ggml.{kind}_token_id")
        return value if isinstance(value, int) else None

    def _control_id(self, tokenizer: Tokenizer, text: str) -> int | None:
        token = tokenizer.get_added_tokens_decoder()
        return next((index for index, added in token.items() if added.content == text), None)


def _text(tokenizer: Tokenizer, token: int | None) -> str:
    return "" if token is None else tokenizer.id_to_token(token) or ""


def _uninterleaved(tensor: Tensor, num_heads: int) -> Tensor:
    """Rows (head, pair, half) of the file -> (head, half, pair), as `rotate_half` wants them."""
    rows = tensor.shape[0]
    if not isinstance(num_heads, int) or num_heads < 1 or rows % (2 * num_heads):
        raise FormatError(f"{rows} rows of queries or keys do not make {num_heads} heads")
    pairs = tensor.reshape(num_heads, rows // num_heads // 2, 2, *tensor.shape[1:])
    return pairs.transpose(1, 2).reshape(tensor.shape)
