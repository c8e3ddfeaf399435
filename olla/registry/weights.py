"""What a model's weight files say about themselves, read from their headers only.

One shape for GGUF files and Hugging Face repositories; where a repository's words differ, GGUF's
are used (`llama.block_count`), since clients of `show` read those. A header is read once for
each set of weights, as blobs do not change.
"""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from olla.errors import FormatError
from olla.formats.architectures import GGUF_ENCODERS, Purpose, can_see, purpose_of
from olla.formats.bitsandbytes import Parameter, is_quantized, parameters
from olla.formats.gguf import FILE_TYPES, GgufFile, MetadataValue, read_gguf
from olla.formats.safetensors import SafetensorsTensor, read_safetensors

GGUF_NAME = "model.gguf"
MAX_CONFIG_BYTES = 64 * 1024 * 1024

_HIDDEN_KEYS = frozenset({"general.name", "tokenizer.chat_template"})
_REPOSITORY_KEYS = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
}

_log = logging.getLogger(__name__)

InfoValue = MetadataValue | None
Files = Mapping[str, Path]


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor as `show` lists it: `shape` in the order of its file format."""

    name: str
    type: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class WeightsHeader:
    """`info` has GGUF's keys; arrays are None unless they were asked for."""

    info: Mapping[str, InfoValue] = field(default_factory=dict)
    tensors: tuple[TensorInfo, ...] = ()
    chat_template: str = ""
    file_type: str = ""
    generates: bool = False
    embeds: bool = False
    reranks: bool = False
    sees: bool = False
    hears: bool = False

    @property
    def architecture(self) -> str:
        return str(self.info.get("general.architecture") or "")

    @property
    def parameter_count(self) -> int:
        return self.number("general.parameter_count")

    def number(self, key: str) -> int:
        """The whole number under `key`, 0 if there is none."""
        value = self.info.get(key)
        return value if type(value) is int else 0


class WeightsHeaders:
    """Reads headers and remembers them by `weights_key`."""

    def __init__(self) -> None:
        self._headers: dict[str, WeightsHeader] = {}

    def read(self, weights_key: str, files: Files) -> WeightsHeader:
        """Weights that cannot be read have nothing to say: their model can still be listed and
        deleted, and whoever loads it gets the error."""
        header = self._headers.get(weights_key)
        if header is None:
            header = _read_or_warn(files)
            if header.info:
                self._headers[weights_key] = header
        return header


def read_header(files: Files, verbose: bool = False) -> WeightsHeader:
    """Read the header of a model's weights; `verbose` keeps arrays such as the vocabulary.

    Raises:
        FormatError: a file is broken.
        OSError: a file cannot be read.
    """
    if GGUF_NAME in files:
        return _from_gguf(read_gguf(files[GGUF_NAME]), verbose)
    return _from_repository(files) if files else WeightsHeader()


def gguf_info(file: GgufFile, verbose: bool) -> dict[str, InfoValue]:
    """The metadata that `show` reports, and the number of parameters."""
    info: dict[str, InfoValue] = {
        key: None if isinstance(value, tuple) and not verbose else value
        for key, value in file.metadata.items()
        if key not in _HIDDEN_KEYS
    }
    info["general.parameter_count"] = sum(math.prod(tensor.shape) for tensor in file.tensors)
    return info


def format_parameter_count(count: int) -> str:
    """Ollama's spelling: "8B", "8.0B", "134.52M", "12K"."""
    for unit, letter, decimals in ((10**9, "B", 1), (10**6, "M", 2), (10**3, "K", 0)):
        if count >= unit:
            return f"{count / unit:.{decimals if count % unit else 0}f}{letter}"
    return str(count)


def _read_or_warn(files: Files) -> WeightsHeader:
    try:
        return read_header(files)
    except (FormatError, OSError) as error:
        _log.warning("cannot read weights files=%s error=%s", sorted(files), error)
        return WeightsHeader()


def _from_gguf(file: GgufFile, verbose: bool) -> WeightsHeader:
    template = file.metadata.get("tokenizer.chat_template")
    number = file.metadata.get("general.file_type")
    architecture = file.metadata.get("general.architecture")
    embeds = f"{architecture}.pooling_type" in file.metadata or architecture in GGUF_ENCODERS
    return WeightsHeader(
        info=gguf_info(file, verbose),
        tensors=tuple(
            TensorInfo(tensor.name, tensor.type.name, tuple(reversed(tensor.shape)))
            for tensor in file.tensors
        ),
        chat_template=template if isinstance(template, str) else "",
        file_type=FILE_TYPES.get(number, "unknown") if isinstance(number, int) else "unknown",
        generates=not embeds,
        embeds=embeds,
        sees=f"{architecture}.vision.block_count" in file.metadata,
        hears=f"{architecture}.audio.block_count" in file.metadata,
    )


def _from_repository(files: Files) -> WeightsHeader:
    config = _read_json(files, "config.json")
    placed = [
        (path, tensor)
        for name, path in sorted(files.items())
        if name.endswith(".safetensors")
        for tensor in read_safetensors(path).tensors
    ]
    tensors = [tensor for _, tensor in placed]
    dtype, count = _main_dtype(tensors), sum(math.prod(tensor.shape) for tensor in tensors)
    if is_quantized(config):
        found = parameters(placed).values()
        dtype = _main_type(found) or dtype
        count = sum(math.prod(parameter.shape) for parameter in found)
    purpose = purpose_of(config, files)
    return WeightsHeader(
        info=_repository_info(config, count, dtype),
        tensors=tuple(TensorInfo(tensor.name, tensor.dtype, tensor.shape) for tensor in tensors),
        chat_template=chat_template(files),
        file_type=dtype,
        generates=purpose is Purpose.GENERATE,
        embeds=purpose is Purpose.EMBED,
        reranks=purpose is Purpose.RERANK,
        sees=can_see(config, files),
        hears="audio_config" in config,
    )


def _repository_info(
    config: Mapping[str, Any], parameter_count: int, dtype: str
) -> dict[str, InfoValue]:
    architecture = str(config.get("model_type") or "unknown")
    text_config = config.get("text_config")
    numbers = {**config, **text_config} if isinstance(text_config, dict) else config
    info: dict[str, InfoValue] = {"general.architecture": architecture}
    info.update(
        ("general.file_type", number) for number, name in FILE_TYPES.items() if name == dtype
    )
    info["general.parameter_count"] = parameter_count
    for key, name in _REPOSITORY_KEYS.items():
        if type(numbers.get(name)) is int:
            info[f"{architecture}.{key}"] = numbers[name]
    return info


def _main_dtype(tensors: list[SafetensorsTensor]) -> str:
    """The dtype that most bytes of the weights have."""
    sizes: Counter[str] = Counter()
    for tensor in tensors:
        sizes[tensor.dtype] += tensor.size_bytes
    return sizes.most_common(1)[0][0] if sizes else "unknown"


def _main_type(found: Iterable[Parameter]) -> str:
    """What bitsandbytes made of most parameters, in capitals; "" if it left all as they were."""
    sizes: Counter[str] = Counter()
    for parameter in found:
        sizes[parameter.quant_type.upper()] += math.prod(parameter.shape)
    del sizes[""]
    return sizes.most_common(1)[0][0] if sizes else ""


def chat_template(files: Files) -> str:
    """transformers' order: a file of its own wins over the tokenizer's configuration.

    Models that see may have theirs in chat_template.json.
    """
    if "chat_template.jinja" in files:
        return _read_text(files["chat_template.jinja"])
    template = _read_json(files, "chat_template.json").get("chat_template")
    template = template or _read_json(files, "tokenizer_config.json").get("chat_template")
    if isinstance(template, list):
        named = [entry for entry in template if isinstance(entry, dict)]
        template = {entry.get("name"): entry.get("template") for entry in named}.get("default")
    return template if isinstance(template, str) else ""


def _read_json(files: Files, name: str) -> Mapping[str, Any]:
    """A JSON object of the repository; empty if it has no such file."""
    if name not in files:
        return {}
    try:
        document = json.loads(_read_text(files[name]))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{name} is not JSON") from error
    if not isinstance(document, dict):
        raise FormatError(f"{name} is not a JSON object")
    return document


def _read_text(path: Path) -> str:
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise FormatError(f"a configuration file has more than {MAX_CONFIG_BYTES} bytes")
    return path.read_text("utf-8", "replace")
