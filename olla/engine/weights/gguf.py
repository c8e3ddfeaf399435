"""GgufCheckpoint: a GGUF file as a Hugging Face checkpoint.

Quantized blocks become float32 by the `gguf` package's dequantization, one tensor at a time from
the memory map. What llama.cpp's converter changed is undone, so that every parameter, and so
every adapter, means what it means in transformers: rows of queries and keys that were interleaved
for its rotary layout, and Gemma's norms, stored there with one added.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from olla.engine.matrices import Blocks, Bytes, RawTensor
from olla.engine.weights.checkpoint import SpecialTokens, Storage
from olla.engine.weights.four_bit import FOUR_BIT_TYPES, four_bit_blocks
from olla.engine.weights.gguf_config import config_from_metadata
from olla.engine.weights.gguf_tokenizer import frame_texts, tokenizer_from_metadata
from olla.engine.weights.mapped import MappedFile
from olla.errors import FormatError
from olla.formats.expert_tensors import unstacked
from olla.formats.ggml_types import GgmlType
from olla.formats.gguf import GgufFile, GgufTensor, read_gguf
from olla.formats.gguf_parts import is_part
from olla.formats.tensor_names import hf_name

_CHUNK = 2**20  # elements turned into floats at once: some megabytes, whatever the tensor's size
_FLOATS = {
    GgmlType.F32: torch.float32,
    GgmlType.F16: torch.float16,
    GgmlType.BF16: torch.bfloat16,
}
INTERLEAVED = frozenset({"llama", "granite", "granitemoe", "smollm3"})
INTERLEAVED_NAMES = (".q_proj.weight", ".k_proj.weight", ".q_proj.bias", ".k_proj.bias")
NORMS_PLUS_ONE = frozenset({"gemma2", "gemma3"})
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
        if is_part(self._file):
            raise FormatError("the weights are one part of a split GGUF file: pull the model again")
        self.metadata: Mapping[str, Any] = self._file.metadata
        self._architecture = str(self.metadata.get("general.architecture"))
        self._tensors = self._by_hf_name()
        embedding = self._tensors.get("model.embed_tokens.weight")
        rows = embedding.shape[0] if embedding is not None else 0
        self.config = config_from_metadata(self.metadata, rows)
        self._mapped = MappedFile(path)

    @property
    def total_bytes(self) -> int:
        return sum(tensor.size_bytes for tensor in self._tensors.values())

    @property
    def names(self) -> Iterable[str]:
        return self._tensors

    def shape(self, name: str) -> tuple[int, ...] | None:
        tensor = self._tensors.get(name)
        return None if tensor is None else tensor.shape

    def read(self, name: str, out: Tensor) -> int:
        tensor = self._tensors[name]
        if self._architecture in NORMS_PLUS_ONE and name.endswith("norm.weight"):
            wide = torch.empty(tensor.shape)  # one is added before the values are narrowed
            self._dequantize(tensor, wide)
            out.copy_(wide - 1.0)
        elif self._is_interleaved(name):
            interleaved = torch.empty_like(out)
            self._dequantize(tensor, interleaved)
            out.copy_(self._uninterleaved(name, interleaved))
        else:
            self._dequantize(tensor, out)
        return tensor.size_bytes

    def storage(self, name: str) -> Storage | None:
        tensor = self._tensors.get(name)
        if tensor is None or tensor.type in _FLOATS:
            return None if tensor is None else Storage.FLOAT
        return Storage.FOUR_BIT if tensor.type in FOUR_BIT_TYPES else Storage.EIGHT_BIT

    def raw(self, name: str) -> RawTensor | None:
        tensor = self._tensors.get(name)
        if tensor is None or len(tensor.shape) != 2:
            return None
        order = None
        if self._is_interleaved(name):
            order = self._uninterleaved(name, torch.arange(tensor.shape[0], dtype=torch.int32))

        def done() -> int:
            self._mapped.drop(tensor.offset, tensor.size_bytes)
            return tensor.size_bytes

        data = self._mapped.bytes[tensor.offset : tensor.offset + tensor.size_bytes]
        return RawTensor(tensor.type, (tensor.shape[0], tensor.shape[1]), data, order, done)

    def read_blocks(self, name: str) -> tuple[Blocks, int]:
        tensor = self._tensors[name]
        raw = self._mapped.bytes[tensor.offset : tensor.offset + tensor.size_bytes]
        blocks = four_bit_blocks(raw, tensor.type, tensor.shape)
        self._mapped.drop(tensor.offset, tensor.size_bytes)
        if self._is_interleaved(name):
            blocks = Blocks(*(self._uninterleaved(name, part) for part in blocks))
        return blocks, tensor.size_bytes

    def packed_bytes(self, name: str) -> int:
        raise AssertionError(f"{name} is not packed by bitsandbytes")

    def tokenizer(self) -> Tokenizer:
        tokenizer = tokenizer_from_metadata(self.metadata)
        adds_eos = bool(self.metadata.get("tokenizer.ggml.add_eos_token"))
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
                found = unstacked(replace(tensor, name=name))
                named.update({part.name: part for part in found})
        return named

    def _dequantize(self, tensor: GgufTensor, out: Tensor) -> None:
        """Raises FormatError for a quantization that the package cannot undo."""
        block, block_bytes = tensor.type.block_elements, tensor.type.block_bytes
        flat = out.view(-1)
        raw = self._mapped.bytes[tensor.offset : tensor.offset + tensor.size_bytes]
        chunk = _CHUNK // block

        def fill(first: int) -> None:
            part = raw[first * block_bytes : (first + chunk) * block_bytes]
            flat[first * block : (first + chunk) * block] = floats(part, tensor.type)
            self._mapped.drop(tensor.offset + first * block_bytes, part.size)

        try:
            # numpy lets go of the interpreter's lock, so the cores share the work.
            with ThreadPoolExecutor(torch.get_num_threads()) as threads:
                list(threads.map(fill, range(0, flat.numel() // block, chunk)))
        except (NotImplementedError, ValueError) as error:
            raise FormatError(f"{tensor.name}: cannot read {tensor.type.name} weights") from error

    def _is_interleaved(self, name: str) -> bool:
        return self._architecture in INTERLEAVED and name.endswith(INTERLEAVED_NAMES)

    def _uninterleaved(self, name: str, tensor: Tensor) -> Tensor:
        heads = self.config["num_attention_heads"]
        is_query = ".q_proj." in name
        return uninterleaved(
            tensor, heads if is_query else self.config.get("num_key_value_heads", heads)
        )

    def _adds_bos(self) -> bool:
        """llama.cpp's defaults where the file does not say."""
        default = self.metadata.get("tokenizer.ggml.model") == "llama"
        default = default or self.metadata.get("tokenizer.ggml.pre") == "llama-bpe"
        return bool(self.metadata.get("tokenizer.ggml.add_bos_token", default))

    def _token_id(self, kind: str) -> int | None:
        value = self.metadata.get(f"tokenizer.ggml.{kind}_token_id")
        return value if isinstance(value, int) else None

    def _control_id(self, tokenizer: Tokenizer, text: str) -> int | None:
        token = tokenizer.get_added_tokens_decoder()
        return next((index for index, added in token.items() if added.content == text), None)


def floats(blocks: Bytes, kind: GgmlType) -> Tensor:
    """
    Raises:
        NotImplementedError, ValueError: the package cannot undo the quantization.
    """
    if kind in _FLOATS:
        return torch.from_numpy(blocks.copy()).view(_FLOATS[kind])
    # Imported here, since models that are kept as their files have them do not need it.
    import gguf  # noqa: PLC0415

    # As one row: the package goes over rows sixteen at a time, in Python.
    values = gguf.quants.dequantize(blocks.reshape(1, -1), gguf.GGMLQuantizationType(int(kind)))
    return torch.from_numpy(values[0])


def _text(tokenizer: Tokenizer, token: int | None) -> str:
    return "" if token is None else tokenizer.id_to_token(token) or ""


def uninterleaved(tensor: Tensor, num_heads: int) -> Tensor:
    """Rows (head, pair, half) of the file -> (head, half, pair), as `rotate_half` wants them."""
    rows = tensor.shape[0]
    if not isinstance(num_heads, int) or num_heads < 1 or rows % (2 * num_heads):
        raise FormatError(f"{rows} rows of queries or keys do not make {num_heads} heads")
    pairs = tensor.reshape(num_heads, rows // num_heads // 2, 2, *tensor.shape[1:])
    return pairs.transpose(1, 2).reshape(tensor.shape)


def interleaved(tensor: Tensor, num_heads: int) -> Tensor:
    """The other way round."""
    halves = tensor.reshape(num_heads, 2, tensor.shape[0] // num_heads // 2, *tensor.shape[1:])
    return halves.transpose(1, 2).reshape(tensor.shape)
