"""A create request and the store -> a new model in the store (spec/api.md section 7.4).

Blocking: it reads headers and writes small blobs. Works only with blobs that are in the store;
whoever calls has pulled the base before. Invariant: the manifest is written last, and until then
a hold keeps every blob it will name, so giving up at any point leaves the store as it was.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from olla.errors import BadInput
from olla.modelfile.adapter import ImportedAdapter, import_adapters
from olla.modelfile.adapter_texts import new_template, with_vocabulary
from olla.modelfile.draft import import_draft
from olla.modelfile.parse import parse_version
from olla.modelfile.parts import join_uploads
from olla.modelfile.provenance import check_base
from olla.modelfile.quantized import Quantize, quantized
from olla.modelfile.uploads import Upload, find_uploads, is_gguf, is_safetensors
from olla.modelfile.weights import Weights, import_gguf, import_repository
from olla.names import ModelName
from olla.options import Options
from olla.registry.blobs import BlobStore
from olla.registry.digest import Digest
from olla.registry.disk import Hold
from olla.registry.manifest import (
    CONFIG_TYPE,
    Layer,
    Manifest,
    MediaType,
    ModelConfig,
    format_config,
    format_json,
    format_manifest,
)
from olla.registry.store import ModelStore
from olla.requests import CreateRequest, Progress


def build_model(
    request: CreateRequest, store: ModelStore, quantize: Quantize
) -> Generator[Progress, None, None]:
    """Make the model, telling each step; the last one is "success".

    Raises:
        BadInput: the request, a file in it or an option cannot be used.
        ModelNotFound: the base is not in the store.
        BlobNotFound: a file was not uploaded.
        StoreError: the store refused.
    """
    name = ModelName.parse(request.model)
    with store.hold() as hold:
        adapters = find_uploads(request.adapters, store.blobs, hold)
        draft = find_uploads(request.draft_files, store.blobs, hold)
        base = yield from _begin(request, store, quantize, hold)
        assembly = _Assembly(store.blobs, hold)
        imported = yield from _import_adapters(adapters, base.weights, request)
        weights = with_vocabulary(base.weights, imported, store.blobs, hold)
        template = request.template or new_template(imported, base.weights, weights)
        base = replace(base, weights=weights)
        assembly.keep(base.weights.layers)
        config = _with_adapters(base.weights, imported, request)
        assembly.keep(_numbered(base.weights.layers, imported))
        if draft:
            layer = yield from _draft_layer(draft, base.weights, request, quantize, store, hold)
            assembly.replace_file(layer)
        _lay_over(assembly, replace(request, template=template), base.parameters)
        manifest = assembly.manifest(_config(request, config))
        yield from assembly.report()
        yield Progress("writing manifest")
        store.put(name, format_manifest(manifest))
    yield Progress("success")


@dataclass(frozen=True, slots=True)
class _Base:
    """What the new model begins with: all the layers of another, or new weights alone."""

    weights: Weights
    parameters: Mapping[str, Any]


def _begin(
    request: CreateRequest, store: ModelStore, quantize: Quantize, hold: Hold
) -> Generator[Progress, None, _Base]:
    """The base, quantized if it is to be, and held."""
    uploads = find_uploads(request.files, store.blobs, hold)
    if request.base:
        base = _stored_base(request.base, store)
    else:
        base = yield from _import(uploads, store.blobs, hold)
    if request.quantize:
        weights = yield from quantized(base.weights, request.quantize, quantize, store, hold)
        base = replace(base, weights=weights)
    for layer in base.weights.layers:
        hold.add(layer.digest)
    return base


class _Assembly:
    """The layers of the new model, each held, and in the store, from when it was added."""

    def __init__(self, blobs: BlobStore, hold: Hold) -> None:
        self._blobs = blobs
        self._hold = hold
        self._layers: list[Layer] = []
        self._new: set[Digest] = set()

    def keep(self, layers: tuple[Layer, ...]) -> None:
        for layer in layers:
            self._hold.add(layer.digest)
        self._layers += layers

    def add(self, media_type: str, data: bytes) -> None:
        self._layers.append(self._stored(media_type, data))

    def add_once(self, media_type: str, data: bytes) -> None:
        """Add a layer unless the base has it, as it does when `show --modelfile` gave the text."""
        layer = self._stored(media_type, data)
        known = {(old.media_type, old.digest) for old in self._layers}
        if (media_type, layer.digest) not in known:
            self._layers.append(layer)

    def replace(self, data: bytes, *media_types: str) -> None:
        """Put one layer, of the first type, in place of all layers of these types."""
        self._layers = [layer for layer in self._layers if layer.media_type not in media_types]
        self.add(media_types[0], data)

    def replace_file(self, layer: Layer) -> None:
        """Put an uploaded file's layer in place of all of its type."""
        self._layers = [old for old in self._layers if old.media_type != layer.media_type]
        self.keep((layer,))

    def report(self) -> Iterator[Progress]:
        for layer in self._layers:
            verb = "creating new" if layer.digest in self._new else "using existing"
            yield Progress(f"{verb} layer {layer.digest}")

    def manifest(self, config: ModelConfig) -> Manifest:
        return Manifest(self._stored(CONFIG_TYPE, format_config(config)), tuple(self._layers))

    def _stored(self, media_type: str, data: bytes) -> Layer:
        digest = Digest.of(data)
        self._hold.add(digest)
        if not self._blobs.has(digest):
            self._new.add(self._blobs.put(data))
        return Layer(media_type, digest, len(data))


def _stored_base(text: str, store: ModelStore) -> _Base:
    """A model made FROM an adapter lies over that one's base, and does not need its name."""
    model = store.resolve(ModelName.parse(text))
    source = (model.adapters and model.parent) or model.name.short
    layers = tuple(replace(layer, source=source) for layer in model.manifest.layers)
    return _Base(Weights(model.config, layers, model.files), model.parameters)


def _import(
    uploads: tuple[Upload, ...], blobs: BlobStore, hold: Hold
) -> Generator[Progress, None, _Base]:
    if not uploads:
        raise BadInput("neither 'from' or 'files' was specified")
    for item in join_uploads(uploads, blobs, hold):
        if isinstance(item, Progress):
            yield item
        else:
            uploads = item
    ggufs = tuple(upload for upload in uploads if is_gguf(upload))
    has_safetensors = any(is_safetensors(upload) for upload in uploads)
    if ggufs and has_safetensors:
        raise BadInput("the weights must be either GGUF or safetensors files, not both")
    if ggufs:
        yield from (Progress("parsing GGUF") for _ in ggufs)
        return _Base(import_gguf(ggufs), {})
    if not has_safetensors:
        raise BadInput("unknown type")
    yield Progress("converting model")
    return _Base(import_repository(uploads), {})


def _import_adapters(
    uploads: tuple[Upload, ...], base: Weights, request: CreateRequest
) -> Generator[Progress, None, tuple[ImportedAdapter, ...]]:
    if not uploads:
        return ()
    yield Progress("converting adapter")
    imported = import_adapters(uploads, base.files)
    warnings = [check_base(item.settings, base.config, force=request.force) for item in imported]
    yield from (Progress(warning) for warning in dict.fromkeys(warnings) if warning)
    unknown = request.adapter_scales.keys() - {adapter.name for adapter in imported}
    if unknown:
        raise BadInput(f"adapter_scales names {min(unknown)!r}, which is no adapter")
    return imported


def _draft_layer(
    uploads: tuple[Upload, ...],
    base: Weights,
    request: CreateRequest,
    quantize: Quantize,
    store: ModelStore,
    hold: Hold,
) -> Generator[Progress, None, Layer]:
    yield Progress("checking the draft model")
    draft = import_draft(uploads, base.files)
    if request.draft_quantize:
        try:
            draft = yield from quantized(draft, request.draft_quantize, quantize, store, hold)
        except BadInput as error:
            raise BadInput(f"DRAFT {uploads[0].name}: {error}") from error
    return replace(draft.layers[0], media_type=MediaType.DRAFT)


def _numbered(layers: tuple[Layer, ...], new: tuple[ImportedAdapter, ...]) -> tuple[Layer, ...]:
    """The new adapters' layers, numbered from where those of the base end."""
    peft = [layer.name for layer in layers if layer.media_type == MediaType.ADAPTER_FILE]
    first = max((int(name.partition("/")[0]) + 1 for name in peft), default=0)
    folders = [adapter for adapter in new if not adapter.is_gguf]
    ggufs = [layer for adapter in new if adapter.is_gguf for layer in adapter.layers]
    numbered = (adapter.numbered(first + index) for index, adapter in enumerate(folders))
    return (*ggufs, *(layer for found in numbered for layer in found))


def _with_adapters(
    base: Weights, new: tuple[ImportedAdapter, ...], request: CreateRequest
) -> ModelConfig:
    """The config with the scales of all adapters, in the order that a Model has them in."""
    ggufs = len([layer for layer in base.layers if layer.media_type == MediaType.ADAPTER])
    names = {
        layer.name.partition("/")[0]
        for layer in base.layers
        if layer.media_type == MediaType.ADAPTER_FILE
    }
    scales = list(base.config.adapter_scales) or [1.0] * (ggufs + len(names))
    scales[ggufs:ggufs] = [_scale(adapter, request) for adapter in new if adapter.is_gguf]
    scales += [_scale(adapter, request) for adapter in new if not adapter.is_gguf]
    is_plain = all(scale == 1.0 for scale in scales)
    return replace(base.config, adapter_scales=() if is_plain else tuple(scales))


def _scale(adapter: ImportedAdapter, request: CreateRequest) -> float:
    return float(request.adapter_scales.get(adapter.name, 1.0))


def _lay_over(assembly: _Assembly, request: CreateRequest, parameters: Mapping[str, Any]) -> None:
    """What the request gives replaces what the base has; different licenses add up."""
    if request.template:
        assembly.replace(request.template.encode(), MediaType.TEMPLATE, MediaType.PROMPT)
    if request.system:
        assembly.replace(request.system.encode(), MediaType.SYSTEM)
    for text in request.licenses:
        assembly.add_once(MediaType.LICENSE, text.encode())
    if request.parameters:
        merged = {**parameters, **request.parameters}
        Options.from_json(merged)  # a value of the wrong type would make the model unusable
        assembly.replace(format_json(dict(sorted(merged.items()))), MediaType.PARAMS)
    if request.messages:
        turns = [{"role": turn.role, "content": turn.content} for turn in request.messages]
        assembly.replace(format_json(turns), MediaType.MESSAGES)


def _config(request: CreateRequest, base: ModelConfig) -> ModelConfig:
    requires = parse_version(request.requires) if request.requires else base.requires
    return replace(
        base,
        renderer=request.renderer or base.renderer,
        parser=request.parser or base.parser,
        requires=requires,
    )
