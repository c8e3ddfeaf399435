"""Writes small GGUF files, right ones and, on request, wrong ones.

Independent of the reader under test: plain struct packing after ggml's docs/gguf.md.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

STRING, ARRAY, BOOL = 8, 9, 7
U32, I32, F32, U64 = 4, 5, 6, 10
F32_TENSOR = 0


@dataclass(frozen=True)
class Raw:
    """A metadata value given as its type code and its bytes, for types the writer does not pick."""

    type_code: int
    data: bytes


@dataclass(frozen=True)
class TensorSpec:
    """A tensor to write. `shape` is in ggml's order; `offset` None places it behind the last."""

    name: str
    shape: Sequence[int]
    data: bytes
    type_code: int = F32_TENSOR
    offset: int | None = None


Value = bool | int | float | str | bytes | Raw | Sequence[str] | Sequence[int] | Sequence[float]


@dataclass(frozen=True)
class GgufSpec:
    """A whole file. Counts left None are the true ones."""

    metadata: Mapping[str, Value] = field(default_factory=dict)
    tensors: Sequence[TensorSpec] = ()
    version: int = 3
    magic: bytes = b"GGUF"
    alignment: int = 32
    num_tensors: int | None = None
    num_entries: int | None = None
    extra_entries: bytes = b""

    def to_bytes(self) -> bytes:
        """The file. Its last byte is the last tensor's last byte."""
        num_extra = 1 if self.extra_entries else 0
        counts = (
            len(self.tensors) if self.num_tensors is None else self.num_tensors,
            len(self.metadata) + num_extra if self.num_entries is None else self.num_entries,
        )
        head = self.magic + struct.pack("<IQQ", self.version, *counts)
        for key, value in self.metadata.items():
            head += string(key) + typed(value)
        head += self.extra_entries
        body = b""
        for tensor in self.tensors:
            body = _pad(body, self.alignment)
            head += _tensor_entry(tensor, len(body))
            body += tensor.data
        return _pad(head, self.alignment) + body if self.tensors else head

    def write(self, path: Path) -> Path:
        path.write_bytes(self.to_bytes())
        return path


def string(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(data)) + data


def typed(value: Value) -> bytes:
    """A metadata value behind its type: int is u32 (u64 or i32 where it must), float is f32."""
    if isinstance(value, Raw):
        return struct.pack("<I", value.type_code) + value.data
    if isinstance(value, str | bytes):
        return struct.pack("<I", STRING) + string(value)
    if isinstance(value, bool | int | float):
        code, layout = _scalar(value)
        return struct.pack(f"<I{layout}", code, value)
    items = list(value)
    if items and isinstance(items[0], str):
        texts = b"".join(string(str(item)) for item in items)
        return struct.pack("<IIQ", ARRAY, STRING, len(items)) + texts
    code, layout = _scalar(items[0]) if items else (U32, "I")  # type: ignore[arg-type]
    return struct.pack(f"<IIQ{len(items)}{layout}", ARRAY, code, len(items), *items)


def zeros(name: str, shape: Sequence[int]) -> TensorSpec:
    """A float32 tensor of zeros."""
    size = 4
    for length in shape:
        size *= length
    return TensorSpec(name, shape, bytes(size))


def tiny_model(**metadata: Value) -> GgufSpec:
    """A file with every kind of value and two tensors; enough for whoever needs a model blob."""
    base: dict[str, Value] = {
        "general.architecture": "llama",
        "general.name": "Tiny",
        "general.file_type": 3,
        "llama.block_count": 2,
        "llama.context_length": 2048,
        "llama.embedding_length": 8,
        "llama.attention.head_count": 2,
        "llama.attention.head_count_kv": 1,
        "llama.attention.layer_norm_rms_epsilon": 0.5,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.tokens": ["<s>", "a", "b"],
        "tokenizer.ggml.token_type": [3, 1, 1],
        "tokenizer.ggml.scores": [0.0, -1.0, -2.5],
        "tokenizer.chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}",
    }
    tensors = [zeros("token_embd.weight", (8, 3)), zeros("output_norm.weight", (8,))]
    return GgufSpec(metadata=base | metadata, tensors=tensors)


def _scalar(value: bool | int | float) -> tuple[int, str]:
    if isinstance(value, bool):
        return BOOL, "?"
    if isinstance(value, float):
        return F32, "f"
    if value < 0:
        return I32, "i"
    return (U32, "I") if value < 2**32 else (U64, "Q")


def _tensor_entry(tensor: TensorSpec, offset: int) -> bytes:
    shape = list(tensor.shape)
    return (
        string(tensor.name)
        + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        + struct.pack("<IQ", tensor.type_code, offset if tensor.offset is None else tensor.offset)
    )


def _pad(data: bytes, alignment: int) -> bytes:
    return data + bytes(-len(data) % alignment)
