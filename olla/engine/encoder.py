"""Encoders: transformers' own modules that read a whole text at once and write none.

Texts of one length make a batch, so there is no padding, and no mask that an architecture might
forget: a vector does not depend on its batch. A cross-encoder is one whose vector is a score.
Code that a repository carries is never run.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer
from torch import Tensor, nn

from olla.engine.cpu_threads import choose_threads
from olla.engine.encoder_files import is_gguf_encoder
from olla.engine.inputs import Reading
from olla.engine.loading import choose_device, choose_dtype
from olla.engine.memory import is_out_of_memory
from olla.engine.models.hf import link_files
from olla.engine.pooling import Head, Pooling, read_head
from olla.engine.weights.gguf_bert import read_gguf_encoder
from olla.engine.weights.safetensors import SafetensorsCheckpoint, read_json
from olla.errors import FormatError, OutOfMemory
from olla.formats.architectures import architectures, is_classifier

TOKENS_PER_BATCH = 2048

_UNUSED: tuple[str, ...] = ("pooler.", "embeddings.position_ids")


@dataclass(frozen=True, slots=True)
class LoadedEncoder:
    model: Encoder
    tokenizer: Tokenizer
    architecture: str
    context_length: int
    device: torch.device
    dtype: torch.dtype
    num_bytes: int


class Encoder:
    """Vectors of texts; with `head` None, scores of pairs."""

    has_unit_vectors = False  # Ollama's for /api/embeddings: as they were pooled

    def __init__(self, network: nn.Module, head: Head | None, device: torch.device) -> None:
        self._network = network
        self._head = head
        self._device = device
        config: Any = network.config
        types = getattr(config, "type_vocab_size", None) or 0
        parameters = signature(network.forward).parameters
        self._has_types = types > 1 and "token_type_ids" in parameters
        self.vocab_size: int = config.get_text_config().vocab_size

    @property
    def scores_pairs(self) -> bool:
        return self._head is None

    def batches(self, lengths: Sequence[int]) -> list[list[int]]:
        """The places of texts of one length, as many at once as the budget has tokens for."""
        alike: dict[int, list[int]] = {}
        for place, length in enumerate(lengths):
            alike.setdefault(length, []).append(place)
        return [
            places[first : first + most]
            for length, places in sorted(alike.items())
            for most in [max(TOKENS_PER_BATCH // length, 1)]
            for first in range(0, len(places), most)
        ]

    @torch.inference_mode()
    def embed(self, readings: Sequence[Reading]) -> Iterator[Tensor | None]:
        """The vectors (num_texts, width) float32 of one batch, in one forward pass."""
        tokens = torch.tensor([reading.tokens for reading in readings], device=self._device)
        inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
        if self._has_types:
            types = [reading.types for reading in readings]
            inputs["token_type_ids"] = torch.tensor(types, device=self._device)
        output = self._network(**inputs)
        if self._head is None:
            yield torch.sigmoid(output.logits.float())
        else:
            yield self._head(output.last_hidden_state)


def load_encoder(
    files: Mapping[str, str], dtype: str, device: str, num_threads: int
) -> LoadedEncoder:
    """Load a GGUF file or a Hugging Face repository's files.

    On the CPU it computes in float32 unless `dtype` says otherwise: encoders are small, and rounded
    vectors would depend on their batch.

    Raises:
        FormatError: the files are broken or of a kind that olla does not run.
        BadInput: there is no such device.
        OutOfMemory: the weights do not fit.
    """
    torch.set_num_threads(choose_threads(num_threads))
    place = choose_device(device)
    is_exact = dtype == "auto" and place.type == "cpu"
    kind = torch.float32 if is_exact else choose_dtype(dtype, place)
    paths = {name: Path(path) for name, path in files.items()}
    try:
        network, head, tokenizer = _read(paths, kind, place)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(
            f"model requires more system memory than is available on {place}"
        ) from error
    model = Encoder(network, head, place)
    _probe(model)
    config: Any = network.config
    return LoadedEncoder(
        model=model,
        tokenizer=tokenizer,
        architecture=config.model_type,
        context_length=_context_length(network, paths),
        device=place,
        dtype=kind,
        num_bytes=sum(parameter.nbytes for parameter in network.parameters()),
    )


def _read(
    files: Mapping[str, Path], dtype: torch.dtype, device: torch.device
) -> tuple[nn.Module, Head | None, Tokenizer]:
    if is_gguf_encoder(files):
        gguf = read_gguf_encoder(files, dtype)
        return gguf.network.to(device).eval(), Head((gguf.pooling,)), gguf.tokenizer
    config = read_json(files, "config.json")
    tokenizer = SafetensorsCheckpoint(files).tokenizer()
    # transformers reads directories; a blob's name says nothing, so links give them theirs.
    with tempfile.TemporaryDirectory(prefix="olla-") as folder:
        link_files(files, Path(folder))
        network = _from_pretrained(folder, config, dtype).to(device).eval()
    if not is_classifier(config):
        return network, read_head(files, device, Pooling.MEAN), tokenizer
    _check_scores(network)
    return network, None, tokenizer


def _from_pretrained(folder: str, config: Mapping[str, Any], dtype: torch.dtype) -> Any:
    auto: Any = transformers.AutoModel
    unused = _UNUSED
    name = architectures(config)[0]
    if is_classifier(config):
        auto, unused = transformers.AutoModelForSequenceClassification, ()
    elif name.endswith("EncoderModel"):  # half of a model that AutoModel would load whole
        auto = getattr(transformers, name, auto)
    try:
        network, info = auto.from_pretrained(
            folder,
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except torch.OutOfMemoryError:
        raise
    except (ValueError, KeyError, OSError, RuntimeError, ImportError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise FormatError(f"transformers cannot load this model: {reason}") from error
    missing = sorted(key for key in info["missing_keys"] if not key.startswith(unused))
    if missing:
        raise FormatError(f"the weights lack {missing[0]}")
    return network


def _check_scores(network: nn.Module) -> None:
    config: Any = network.config
    if config.num_labels != 1:
        raise FormatError(
            f"this model sorts texts into {config.num_labels} classes; olla runs classifiers "
            "with one, which score pairs of texts"
        )
    text_config = config.get_text_config()
    if text_config.pad_token_id is None:
        text_config.pad_token_id = -1  # it looks for the last token that is no padding; none is


def _probe(model: Encoder) -> None:
    """Find out now whether tokens are all that the model wants."""
    try:
        list(model.embed([Reading([1, 0], [0, 0])]))
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, TypeError, RuntimeError, ValueError, LookupError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise FormatError(f"this model makes no vectors of texts alone: {reason}") from error


def _context_length(network: nn.Module, files: Mapping[str, Path]) -> int:
    """The smallest of what the network, its tokenizer and sentence-transformers say."""
    config: Any = network.config
    bounds = [
        getattr(config.get_text_config(), "max_position_embeddings", None),
        read_json(files, "tokenizer_config.json", required=False).get("model_max_length"),
        read_json(files, "sentence_bert_config.json", required=False).get("max_seq_length"),
        *_offset_positions(network),
    ]
    lengths = [bound for bound in bounds if isinstance(bound, int) and bound > 0]
    return min(lengths, default=512)


def _offset_positions(network: nn.Module) -> Iterator[int]:
    """RoBERTa and its kin count positions from behind the padding's."""
    for name, module in network.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            unused = 0 if module.padding_idx is None else module.padding_idx + 1
            yield module.num_embeddings - unused
