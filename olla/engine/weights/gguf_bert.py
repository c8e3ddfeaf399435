"""A BERT in a GGUF file as transformers' module with its vocabulary, its weights dequantized.

Names and layouts are those of llama.cpp's converter, which writes word pieces without "##" and the
beginnings of words with a mark; what it changed is undone. Encoders are small, so nothing stays
quantized in memory.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn

from olla.engine.pooling import GGUF_POOLINGS, Pooling
from olla.errors import FormatError
from olla.formats.gguf import GgufFile, GgufTensor, read_gguf

_WORD_START = "\u2581"
_LONGEST_WORD = 100  # characters; a longer one is unknown, in BERT as in llama.cpp

_CONFIG = {
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
}
_TOP = {
    "token_embd": "embeddings.word_embeddings",
    "token_types": "embeddings.token_type_embeddings",
    "position_embd": "embeddings.position_embeddings",
    "token_embd_norm": "embeddings.LayerNorm",
}
_BLOCK = {
    "attn_q": "attention.self.query",
    "attn_k": "attention.self.key",
    "attn_v": "attention.self.value",
    "attn_output": "attention.output.dense",
    "attn_output_norm": "attention.output.LayerNorm",
    "ffn_up": "intermediate.dense",
    "ffn_down": "output.dense",
    "layer_output_norm": "output.LayerNorm",
}
_TENSOR_NAME = re.compile(r"(?:blk\.(\d+)\.)?([a-z_]+)\.(weight|bias)")


class GgufEncoder(NamedTuple):
    network: nn.Module
    pooling: Pooling
    tokenizer: Tokenizer


def read_gguf_encoder(files: Mapping[str, Path], dtype: torch.dtype) -> GgufEncoder:
    """
    Raises:
        FormatError: the file is broken, or its pooling or vocabulary of a kind olla does not know.
    """
    path = next(path for name, path in files.items() if name.endswith(".gguf"))
    file = read_gguf(path)
    state = _state(file, path)
    network = transformers.BertModel(_config(file, state), add_pooling_layer=False)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise FormatError("the GGUF file's tensors do not fit its metadata") from error
    kind = _number(file, "pooling_type", default=1)
    if kind not in GGUF_POOLINGS:
        raise FormatError(f"the GGUF file has pooling type {kind}, which olla does not know")
    tokenizer = _tokenizer(file.metadata)
    return GgufEncoder(network.to(dtype), GGUF_POOLINGS[kind], tokenizer)


def _architecture(file: GgufFile) -> object:
    return file.metadata.get("general.architecture")


def _config(file: GgufFile, state: Mapping[str, Tensor]) -> transformers.BertConfig:
    sizes = {name: _number(file, key) for name, key in _CONFIG.items()}
    words = state.get("embeddings.word_embeddings.weight")
    types = state.get("embeddings.token_type_embeddings.weight")
    positions = state.get("embeddings.position_embeddings.weight")
    if words is None or types is None or positions is None:
        raise FormatError("the GGUF file lacks a table of embeddings")
    epsilon = file.metadata.get("bert.attention.layer_norm_epsilon")
    heads = sizes["num_attention_heads"]
    if heads < 1 or sizes["hidden_size"] % heads:
        raise FormatError(f"{sizes['hidden_size']} numbers do not make {heads} heads")
    return transformers.BertConfig(
        **sizes,
        vocab_size=len(words),
        type_vocab_size=len(types),
        max_position_embeddings=len(positions),
        layer_norm_eps=epsilon if isinstance(epsilon, float) else 1e-12,
    )


def _number(file: GgufFile, key: str, default: int | None = None) -> int:
    value = file.metadata.get(f"bert.{key}", default)
    if not isinstance(value, int):
        raise FormatError(f"the GGUF file's bert.{key} must be a whole number, not {value!r}")
    return value


def _state(file: GgufFile, path: Path) -> dict[str, Tensor]:
    raw = np.memmap(path, dtype=np.uint8, mode="r")
    state = {}
    for tensor in file.tensors:
        match = _TENSOR_NAME.fullmatch(tensor.name)
        names = _BLOCK if match and match[1] else _TOP
        if match is None or match[2] not in names:
            raise FormatError(f"{tensor.name} is no tensor of a BERT that olla runs")
        prefix = f"encoder.layer.{match[1]}." if match[1] else ""
        state[f"{prefix}{names[match[2]]}.{match[3]}"] = _dequantized(raw, tensor)
    return state


def _dequantized(raw: np.ndarray[Any, Any], tensor: GgufTensor) -> Tensor:
    kind = gguf.GGMLQuantizationType(int(tensor.type))
    part = raw[tensor.offset : tensor.offset + tensor.size_bytes].reshape(1, -1)
    try:
        values = gguf.quants.dequantize(part, kind)
    except (NotImplementedError, ValueError) as error:
        raise FormatError(f"{tensor.name}: cannot read {tensor.type.name} weights") from error
    return torch.from_numpy(np.array(values, dtype=np.float32).reshape(tensor.shape))


def _tokenizer(metadata: Mapping[str, Any]) -> Tokenizer:
    kind = metadata.get("tokenizer.ggml.model")
    tokens = metadata.get("tokenizer.ggml.tokens")
    if kind != "bert" or not isinstance(tokens, tuple):
        raise FormatError(f'unsupported tokenizer "{kind}" for a BERT; olla reads bert from GGUF')
    pieces = [_piece(str(token)) for token in tokens]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    cls, sep, unknown = (
        _special(metadata, kind, pieces) for kind in ("cls", "seperator", "unknown")
    )
    tokenizer = Tokenizer(
        models.WordPiece(vocabulary, unk_token=unknown, max_input_chars_per_word=_LONGEST_WORD)
    )
    tokenizer.normalizer = normalizers.BertNormalizer(strip_accents=True, lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens([cls, sep, unknown])
    tokenizer.post_processor = processors.BertProcessing(
        (sep, vocabulary[sep]), (cls, vocabulary[cls])
    )
    return tokenizer


def _piece(token: str) -> str:
    """As BERT's own vocabulary has it."""
    if token.startswith(_WORD_START):
        return token[len(_WORD_START) :]
    is_special = token.startswith("[") and token.endswith("]")
    return token if is_special else f"##{token}"


def _special(metadata: Mapping[str, Any], kind: str, pieces: list[str]) -> str:
    """A token that the file gives a number, else the one that BERT always has."""
    usual = {"cls": "[CLS]", "seperator": "[SEP]", "unknown": "[UNK]"}[kind]
    number = metadata.get(f"tokenizer.ggml.{kind}_token_id")
    found = pieces[number] if isinstance(number, int) and number in range(len(pieces)) else usual
    if found not in pieces:
        raise FormatError(f"the GGUF file's vocabulary lacks {found}")
    return found
