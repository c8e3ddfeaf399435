"""Model: a manifest resolved and read; everything a model says about itself.

The small layers are read at once, the weights' headers only when something asks for what they
say. Knows where blobs lie, never how they got there. Invariant: every name in `files` and
`adapters` is a clean relative path, whatever the manifest says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from olla.errors import StoreError
from olla.formats.gguf import read_gguf
from olla.messages import Message
from olla.names import ModelName
from olla.options import Options
from olla.registry.blobs import BlobStore
from olla.registry.capabilities import (
    DEFAULT_TEMPLATE,
    Capability,
    go_capabilities,
    is_go_template,
    jinja_capabilities,
    parser_capabilities,
    select_template,
    weights_capabilities,
)
from olla.registry.digest import Digest
from olla.registry.disk import disk_errors
from olla.registry.layout import GGUF_ADAPTER_NAME, adapter_files, model_files, weights_key
from olla.registry.manifest import (
    Manifest,
    MediaType,
    ModelConfig,
    parse_config,
    parse_json,
    parse_manifest,
)
from olla.registry.weights import (
    GGUF_NAME,
    InfoValue,
    TensorInfo,
    WeightsHeader,
    WeightsHeaders,
    format_parameter_count,
    gguf_info,
    read_header,
)

__all__ = ["DEFAULT_TEMPLATE", "Capability", "Model", "is_go_template", "read_model"]

_GPT_OSS = frozenset({"gptoss", "gpt-oss"})


@dataclass(frozen=True, slots=True)
class Model:
    """A stored model.

    `template` is its TEMPLATE, `chat_template` the Jinja text of the weights; "" is none.
    `go_template` settles which of the two is used, if they are in different languages.
    `parameters` is the JSON object as it is stored, `options` what it means. `weights_key` is
    equal for models that share base weights, and "" without weights. `draft` is a small model that
    drafts for this one.
    """

    name: ModelName
    digest: Digest
    modified_at: datetime
    manifest: Manifest
    config: ModelConfig
    template: str
    system: str
    parameters: Mapping[str, Any]
    messages: tuple[Message, ...]
    licenses: tuple[str, ...]
    files: Mapping[str, Path]
    adapters: tuple[Mapping[str, Path], ...]
    projectors: tuple[Path, ...]
    draft: Path | None
    weights_key: str
    headers: WeightsHeaders = field(repr=False, compare=False)
    go_template: bool | None = None

    @property
    def header(self) -> WeightsHeader:
        return self.headers.read(self.weights_key, self.files)

    @property
    def draft_header(self) -> WeightsHeader:
        """That of the model that drafts; empty if there is none."""
        if self.draft is None:
            return WeightsHeader()
        return self.headers.read(self.draft.name, {GGUF_NAME: self.draft})

    @property
    def size_bytes(self) -> int:
        return self.manifest.size_bytes

    @property
    def options(self) -> Options:
        """
        Raises:
            InvalidOption: a stored parameter has the wrong type.
        """
        return Options.from_json(self.parameters)

    @property
    def adapter_scales(self) -> tuple[float, ...]:
        """To what scale each of `adapters` is laid over the base."""
        scales = self.config.adapter_scales or (1.0,) * len(self.adapters)
        if len(scales) != len(self.adapters):
            raise StoreError(
                f"broken config: {len(scales)} adapter_scales for {len(self.adapters)} adapters"
            )
        return scales

    @property
    def scaled_adapters(self) -> Iterator[tuple[Mapping[str, Path], float]]:
        """The files of each adapter, with its scale."""
        return zip(self.adapters, self.adapter_scales, strict=True)

    @property
    def chat_template(self) -> str:
        return self.header.chat_template

    @property
    def prompt_template(self) -> str:
        """The template that writes the prompts, in either language; never "".

        Ollama's built-in renderers write what the files' own template does; its parsers read
        what follows a TEMPLATE in Go.
        """
        go_template = self.go_template
        if self.config.renderer or self.config.parser:
            go_template = not self.config.renderer
        return select_template(self.template, self.chat_template, go_template)

    @property
    def architecture(self) -> str:
        return self.header.architecture

    @property
    def context_length(self) -> int:
        """What the model was made for, in tokens; 0 if nothing says."""
        return self.config.context_length or self.header.number(
            f"{self.architecture}.context_length"
        )

    @property
    def embedding_length(self) -> int:
        return self.config.embedding_length or self.header.number(
            f"{self.architecture}.embedding_length"
        )

    @property
    def parameter_count(self) -> int:
        return self.header.parameter_count

    @property
    def parameter_size(self) -> str:
        """The number of parameters as users know it, such as "8.0B"."""
        if self.config.model_type or not self.parameter_count:
            return self.config.model_type
        return format_parameter_count(self.parameter_count)

    @property
    def quantization_level(self) -> str:
        return self.config.file_type or self.header.file_type

    @property
    def parent(self) -> str:
        """The model or file that the weights came from."""
        layers = self.manifest.layers_of(MediaType.MODEL, MediaType.FILE)
        return layers[0].source if layers else ""

    @property
    def capabilities(self) -> tuple[Capability, ...]:
        return tuple(dict.fromkeys(self._capabilities()))

    def info(self, verbose: bool = False) -> Mapping[str, InfoValue]:
        """What `show` calls model_info; `verbose` adds arrays such as the vocabulary.

        Raises:
            FormatError, StoreError: the weights cannot be read; only when `verbose`.
        """
        if not verbose:
            return self.header.info
        with disk_errors(f"cannot read model {self.name}"):
            return read_header(self.files, verbose=True).info

    def projector_info(self, verbose: bool = False) -> Mapping[str, InfoValue]:
        """The same of the first projector; empty if there is none.

        Raises:
            FormatError, StoreError: it cannot be read.
        """
        if not self.projectors:
            return {}
        with disk_errors(f"cannot read model {self.name}"):
            return gguf_info(read_gguf(self.projectors[0]), verbose)

    def adapter_info(self) -> tuple[Mapping[str, InfoValue], ...]:
        """Of each adapter its "format", which is peft or gguf, "scale" and "size" in bytes.

        Raises:
            StoreError: a file cannot be read.
        """
        with disk_errors(f"cannot read model {self.name}"):
            return tuple(
                {
                    "format": "gguf" if GGUF_ADAPTER_NAME in files else "peft",
                    "scale": scale,
                    "size": sum(path.stat().st_size for path in files.values()),
                }
                for files, scale in self.scaled_adapters
            )

    def check_files(self) -> None:
        """
        Raises:
            StoreError: a file to be loaded is not in the store.
        """
        paths = [path for files in (self.files, *self.adapters) for path in files.values()]
        for path in (*paths, *((self.draft,) if self.draft else ())):
            if not path.is_file():
                raise StoreError(f"model {self.name} is broken: {path.name} is not there")

    def tensors(self) -> tuple[TensorInfo, ...]:
        return self.header.tensors

    def _capabilities(self) -> Iterator[Capability]:
        known = set(Capability)
        yield from (Capability(name) for name in self.config.capabilities if name in known)
        yield from weights_capabilities(self.header)
        template = self.prompt_template
        if not is_go_template(template):
            yield from jinja_capabilities(template)
        if self.projectors:
            yield Capability.VISION
        if is_go_template(template):
            yield from go_capabilities(template)
        yield from parser_capabilities(self.config.parser)
        if self.config.model_family in _GPT_OSS:
            yield Capability.THINKING


def read_model(
    name: ModelName,
    manifest: bytes,
    modified_at: datetime,
    blobs: BlobStore,
    headers: WeightsHeaders | None = None,
    go_template: bool | None = None,
) -> Model:
    """Read a manifest and its small layers.

    Raises:
        BlobNotFound: a small layer is not in the store.
        StoreError: the manifest or a small layer is broken.
    """
    parsed = parse_manifest(manifest)
    texts = _Texts(parsed, blobs)
    parameters = texts.json_of(MediaType.PARAMS, dict)
    return Model(
        name=name,
        digest=Digest.of(manifest),
        modified_at=modified_at,
        manifest=parsed,
        config=parse_config(blobs.read(parsed.config.digest)),
        template=texts.text_of(MediaType.TEMPLATE, MediaType.PROMPT),
        system=texts.text_of(MediaType.SYSTEM),
        parameters=parameters,
        messages=tuple(_message(entry) for entry in texts.json_of(MediaType.MESSAGES, list)),
        licenses=texts.all_of(MediaType.LICENSE),
        files=model_files(parsed, blobs),
        adapters=adapter_files(parsed, blobs),
        projectors=tuple(
            blobs.path(layer.digest) for layer in parsed.layers_of(MediaType.PROJECTOR)
        ),
        draft=next((blobs.path(layer.digest) for layer in parsed.layers_of(MediaType.DRAFT)), None),
        weights_key=weights_key(parsed),
        headers=headers or WeightsHeaders(),
        go_template=go_template,
    )


class _Texts:
    """The small layers of a manifest, read from the store."""

    def __init__(self, manifest: Manifest, blobs: BlobStore) -> None:
        self._manifest = manifest
        self._blobs = blobs

    def all_of(self, *media_types: str) -> tuple[str, ...]:
        return tuple(
            self._blobs.read(layer.digest).decode("utf-8", "replace")
            for layer in self._manifest.layers_of(*media_types)
        )

    def text_of(self, *media_types: str) -> str:
        texts = self.all_of(*media_types)
        return texts[-1] if texts else ""

    def json_of(self, media_type: MediaType, shape: type) -> Any:
        layers = self._manifest.layers_of(media_type)
        if not layers:
            return shape()
        what = f"{media_type.rpartition('.')[2]} layer"
        document = parse_json(self._blobs.read(layers[-1].digest), what)
        if not isinstance(document, shape):
            raise StoreError(
                f"broken {what}: it is not a JSON {'object' if shape is dict else 'list'}"
            )
        return document


def _message(entry: object) -> Message:
    """A turn of the example dialogue; Ollama stores no more of it than role and content."""
    if isinstance(entry, dict):
        role, content = entry.get("role"), entry.get("content")
        if isinstance(role, str) and isinstance(content, str):
            return Message(role=role, content=content)
    raise StoreError("broken messages layer: a message lacks its role or content")
