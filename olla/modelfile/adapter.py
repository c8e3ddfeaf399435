"""Uploaded adapters -> their layers, once it is known from headers that they fit their base.

An adapter is a folder as peft saves it, or one file in GGUF. Knows nothing about torch; what a
file's tensors mean to the model is in lora_fit.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from olla.errors import BadInput
from olla.modelfile.base_weights import read_object
from olla.modelfile.files import ADAPTER_CONFIG, ADAPTER_TEXTS, ADAPTER_WEIGHTS
from olla.modelfile.lora_fit import check_gguf_adapter, check_peft_adapter
from olla.modelfile.uploads import Upload, is_gguf, is_safetensors
from olla.registry.manifest import Layer, MediaType

MAX_ADAPTERS = 100

_SHARD = re.compile(r".*-\d+-of-(?P<count>\d+)\.safetensors")


@dataclass(frozen=True, slots=True)
class ImportedAdapter:
    """`layers` are numbered from 0 by whoever puts them in a manifest; `name` is its folder's.

    `settings` are its adapter_config.json, empty for one in GGUF. `texts` are the tokenizer's
    files beside it, by name. `vocab_size` is what it enlarges the base's to, 0 if it does not.
    """

    name: str
    layers: tuple[Layer, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    texts: Mapping[str, Upload] = field(default_factory=dict)
    vocab_size: int = 0

    @property
    def is_gguf(self) -> bool:
        return self.layers[0].media_type == MediaType.ADAPTER

    def numbered(self, number: int) -> tuple[Layer, ...]:
        """The layers as those of adapter `number`; one in GGUF is a layer without a name."""
        if self.is_gguf:
            return self.layers
        return tuple(replace(layer, name=f"{number}/{layer.name}") for layer in self.layers)


def import_adapters(
    uploads: tuple[Upload, ...], base: Mapping[str, Path]
) -> tuple[ImportedAdapter, ...]:
    """The layers of uploaded adapters, those of one folder making one adapter.

    Raises:
        BadInput: a folder is not an adapter as peft saves it, or one does not fit.
        FormatError: a file is broken.
    """
    ggufs = [upload for upload in uploads if is_gguf(upload)]
    folders: dict[str, list[Upload]] = {}
    for upload in uploads:
        if upload not in ggufs:
            folders.setdefault(str(PurePosixPath(upload.name).parent), []).append(upload)
    if len(ggufs) + len(folders) > MAX_ADAPTERS:
        raise BadInput(f"a model can have {MAX_ADAPTERS} adapters, not more")
    for upload in ggufs:
        check_gguf_adapter(upload.path, base)
    return (
        *(ImportedAdapter(_gguf_name(gguf), (gguf.layer(MediaType.ADAPTER),)) for gguf in ggufs),
        *(_peft_adapter(name, files, base) for name, files in sorted(folders.items())),
    )


def _gguf_name(upload: Upload) -> str:
    folder = str(PurePosixPath(upload.name).parent)
    return upload.name if folder == "." else folder


def _peft_adapter(folder: str, uploads: list[Upload], base: Mapping[str, Path]) -> ImportedAdapter:
    named = {PurePosixPath(upload.name).name: upload for upload in uploads}
    weights = {name: upload for name, upload in named.items() if is_safetensors(upload)}
    if ADAPTER_CONFIG not in named or not weights:
        raise BadInput(
            f"an adapter is two files, as peft saves it: {ADAPTER_CONFIG} and {ADAPTER_WEIGHTS}; "
            "other kinds are not supported"
        )
    _check_shards(weights)
    files = {ADAPTER_CONFIG: named[ADAPTER_CONFIG], **weights}
    vocab_size = check_peft_adapter({name: upload.path for name, upload in files.items()}, base)
    layers = (upload.layer(MediaType.ADAPTER_FILE, name) for name, upload in files.items())
    settings = read_object(files[ADAPTER_CONFIG].path, ADAPTER_CONFIG)
    texts = {name: named[name] for name in ADAPTER_TEXTS if name in named}
    name = "" if folder == "." else folder
    return ImportedAdapter(name, tuple(layers), settings, texts, vocab_size)


def _check_shards(names: Iterable[str]) -> None:
    shards = [match for name in names if (match := _SHARD.fullmatch(name))]
    if any(int(shard["count"]) != len(shards) for shard in shards):
        raise BadInput(
            f"the adapter's weights come in {int(shards[0]['count'])} files, but here are "
            f"{len(shards)}: copy its whole folder"
        )
