"""HubSource: a model out of a repository on a hub, whichever hub it is.

A tag that names no file is a revision. What was brought is checked as files that a user uploads
are, and becomes the same layers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace

from olla.errors import (
    BadInput,
    InvalidName,
    RevisionNotFound,
    SourceBroke,
    SourceError,
    SourceRefused,
    SourceUnauthorized,
)
from olla.modelfile.adapter import import_adapters
from olla.modelfile.adapter_texts import TEMPLATES, new_template, with_vocabulary
from olla.modelfile.files import ADAPTER_CONFIG
from olla.modelfile.uploads import Upload
from olla.modelfile.weights import Weights, import_gguf, import_repository
from olla.names import DEFAULT_TAG, ModelName
from olla.options import Options
from olla.registry.blobs import BlobStore
from olla.registry.digest import Digest
from olla.registry.disk import Hold
from olla.registry.manifest import (
    CONFIG_TYPE,
    Layer,
    Manifest,
    MediaType,
    format_config,
    parse_json,
)
from olla.registry.threads import run_to_end
from olla.requests import Progress
from olla.sources.choice import Choice, Kind, choose_files, labels
from olla.sources.download import Planned
from olla.sources.hub_files import Bringer, explained, line_to, read_document
from olla.sources.line import BackOff, Patience
from olla.sources.repository import Lookup, RemoteFile, Repository

_OVERLAY_TYPES = {
    "template": MediaType.TEMPLATE,
    "system": MediaType.SYSTEM,
    "params": MediaType.PARAMS,
}


@dataclass(frozen=True, slots=True)
class HubSource:
    """`name` is `org/repo`; `revision`, if given, is the one to take whatever the tag says.

    `limit_rate` in bytes a second; 0 is no limit.
    """

    look_up: Lookup
    name: str
    tag: str = DEFAULT_TAG
    limit_rate: int = 0
    patience: Patience = field(default_factory=Patience)
    revision: str = ""

    async def fetch(
        self, blobs: BlobStore, hold: Hold
    ) -> AsyncGenerator[Progress | Manifest, None]:
        async with aclosing(self._bring(blobs, hold)) as bringing_model:
            async for item in bringing_model:
                if isinstance(item, Progress):
                    yield item
                else:
                    weights: Weights = item
        config = await run_to_end(_put_config, blobs, hold, weights)
        yield Progress(
            f"pulling {config.digest.short}",
            str(config.digest),
            config.size_bytes,
            config.size_bytes,
        )
        yield Manifest(config, weights.layers)

    async def plan(self) -> tuple[Planned, ...]:
        """As Source says; of an adapter it reads which base it has."""
        repository, choice = await self._choose()
        planned = tuple(Planned(f.name, f.size_bytes, f.digest) for f in choice.all_files)
        if choice.kind is not Kind.ADAPTER:
            return planned
        async with line_to(repository, self.patience, self.limit_rate) as line:
            try:
                config = await read_document(line, repository, choice.files[0])
            except (SourceUnauthorized, SourceRefused) as error:
                raise explained(error, repository) from error
        return (*planned, *await self._base_of(repository, config).plan())

    async def _bring(
        self, blobs: BlobStore, hold: Hold, *, is_base: bool = False
    ) -> AsyncGenerator[Progress | Weights, None]:
        """Bring the files, and the base's where it is an adapter; the last item is the model."""
        repository, choice = await self._choose()
        if is_base and choice.kind is Kind.ADAPTER:
            raise SourceError(f"{repository.name} is an adapter too, which cannot be a base")
        async with line_to(repository, self.patience, self.limit_rate) as line:
            bringer = Bringer(repository, line, blobs, hold)
            async with aclosing(bringer.bring(choice)) as coming:
                async for item in coming:
                    if isinstance(item, Progress):
                        yield item
                    else:
                        brought = item
        uploads = brought.weights
        if choice.kind is Kind.ADAPTER:
            base = self._base_of(repository, await run_to_end(uploads[0].path.read_bytes))
            async with aclosing(base._bring(blobs, hold, is_base=True)) as coming_base:
                async for found in coming_base:
                    if isinstance(found, Progress):
                        yield found
                    else:
                        weights = await run_to_end(_lay_over, found, uploads, blobs, hold)
        else:
            make = import_gguf if choice.kind is Kind.GGUF else import_repository
            weights = await run_to_end(make, uploads)
            config = replace(weights.config, repository=repository.name, revision=repository.commit)
            weights = replace(weights, config=config)
        texts = await run_to_end(_text_layers, choice, brought.files, repository)
        yield replace(weights, layers=(*weights.layers, *texts))

    async def _choose(self) -> tuple[Repository, Choice]:
        repository = await self._look_up(self.revision)
        choice = _choose(repository, self.tag)
        if choice is None:
            files = repository.files
            try:
                repository = await self._look_up(self.tag)
            except RevisionNotFound as error:
                raise RevisionNotFound(self.name, f"{self.tag}{_or_file(files)}") from error
            choice = _choose(repository, DEFAULT_TAG)
        assert choice is not None
        return repository, choice

    async def _look_up(self, revision: str) -> Repository:
        back_off = BackOff(self.patience)
        while True:
            try:
                return await asyncio.to_thread(self.look_up, self.name, revision)
            except SourceBroke as error:
                await back_off.wait(error)

    def _base_of(self, repository: Repository, config: bytes) -> HubSource:
        """The source of the model that an adapter was made for: its own hub."""
        document = parse_json(config, f"{ADAPTER_CONFIG} of {repository.name}")
        fields = document if isinstance(document, dict) else {}
        name, revision = fields.get("base_model_name_or_path"), fields.get("revision")
        if not isinstance(name, str) or name.count("/") != 1 or not all(name.split("/")):
            raise SourceError(
                f"{repository.name} is an adapter of {name!r}, which is no repository: pull the "
                "model it was made for, and lay it over that with olla create --from --adapter"
            )
        revision = revision if isinstance(revision, str) else ""
        return replace(self, name=name, tag=DEFAULT_TAG, revision=revision)


def _choose(repository: Repository, tag: str) -> Choice | None:
    try:
        return choose_files(repository.files, tag)
    except SourceError as error:
        raise SourceError(f"{repository.name}: {error}") from error
    except BadInput as error:
        raise BadInput(f"{repository.name}: {error}") from error


def _or_file(files: tuple[RemoteFile, ...]) -> str:
    known = labels(files)
    return f", and no such GGUF file; it has {known}" if known else ""


def _lay_over(base: Weights, adapter: tuple[Upload, ...], blobs: BlobStore, hold: Hold) -> Weights:
    """The base with the adapter, and with the chat template and the vocabulary beside that."""
    [imported] = import_adapters(adapter, base.files)
    layers = base.layers
    with suppress(InvalidName):  # a hub's names may be longer than a model's
        source = ModelName.parse(base.config.repository).short
        layers = tuple(replace(layer, source=source) for layer in layers)
    laid = with_vocabulary(replace(base, layers=layers), (imported,), blobs, hold)
    layers = (*laid.layers, *imported.numbered(0))
    if template := new_template((imported,), base, laid).encode():
        layers = tuple(layer for layer in layers if layer.media_type not in TEMPLATES)
        layers = (*layers, _put(blobs, hold, MediaType.TEMPLATE, template))
    return replace(laid, layers=layers)


def _text_layers(
    choice: Choice, brought: Mapping[RemoteFile, Upload], repository: Repository
) -> tuple[Layer, ...]:
    licenses = (brought[file].layer(MediaType.LICENSE) for file in choice.licenses)
    overlays = tuple(brought[file].layer(_OVERLAY_TYPES[file.name]) for file in choice.overlays)
    for file in choice.overlays:
        if file.name == "params":
            _check_params(brought[file], repository)
    return (*licenses, *overlays)


def _check_params(upload: Upload, repository: Repository) -> None:
    """A parameter of the wrong type would make the model unusable."""
    document = parse_json(upload.path.read_bytes(), f"params of {repository.name}")
    if not isinstance(document, dict):
        raise SourceError(f"the params of {repository.name} are not a JSON object")
    Options.from_json(document)


def _put_config(blobs: BlobStore, hold: Hold, weights: Weights) -> Layer:
    return _put(blobs, hold, CONFIG_TYPE, format_config(weights.config))


def _put(blobs: BlobStore, hold: Hold, media_type: str, data: bytes) -> Layer:
    hold.add(Digest.of(data))
    return Layer(media_type, blobs.put(data), len(data))
