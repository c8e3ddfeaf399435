"""OllamaSource: a model from a registry that speaks Ollama's protocol (spec/registry.md 4).

Ollama's own registry, any OCI registry that has models, another olla. Knows the protocol's
addresses and sentences; how bytes come is download.py's matter.
"""

from __future__ import annotations

import platform
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import hdrs
from yarl import URL

from olla import __version__
from olla.errors import SourceError, SourceNotFound, SourceRefused, StoreError
from olla.names import ModelName
from olla.registry.blobs import BlobStore
from olla.registry.digest import Digest
from olla.registry.disk import Hold
from olla.registry.manifest import MANIFEST_TYPE, Manifest, parse_config, parse_new_manifest
from olla.registry.threads import run_to_end
from olla.requests import Progress, TransferOptions
from olla.sources.download import Planned, Remote
from olla.sources.line import Line, Patience, Rate, open_line
from olla.sources.ollama_auth import Keyring, answer_challenges
from olla.sources.prefetch import prefetching

MAX_MANIFEST_BYTES = 16 * 2**20
USER_AGENT = (
    f"ollama/0.33.0 ({platform.machine()} {platform.system().lower()}) Go/1.24.0 olla/{__version__}"
)
"""Registries look at the first product: they turn away clients of Ollama that are too old."""


@dataclass(frozen=True, slots=True)
class Registry:
    """How to reach the registry of a name."""

    keyring: Keyring
    patience: Patience = field(default_factory=Patience)

    @asynccontextmanager
    async def open(self, name: ModelName, options: TransferOptions) -> AsyncIterator[Line]:
        """For `async with`: the line to it.

        Raises:
            SourceError: the name wants plain HTTP, and the user did not allow it.
        """
        origin = origin_of(name, options)
        async with open_line(
            origin,
            renew=answer_challenges(self.keyring, origin),
            user_agent=USER_AGENT,
            patience=self.patience,
            rate=Rate(options.limit_rate),
        ) as line:
            yield line


class OllamaSource:
    def __init__(self, name: ModelName, options: TransferOptions, registry: Registry) -> None:
        self._name = name
        self._registry = registry
        self._options = options

    async def fetch(self, blobs: BlobStore, hold: Hold) -> AsyncGenerator[Progress | bytes, None]:
        """As Source says. The manifest's bytes are the registry's, since a digest names them."""
        async with self._registry.open(self._name, self._options) as line:
            data = await self._manifest(line)
            manifest = _parse(data)
            for layer in manifest.blobs:
                await run_to_end(hold.add, layer.digest)
            remotes = [
                Remote(layer.digest, layer.size_bytes, self._blob_url(layer.digest))
                for layer in manifest.blobs
            ]
            async with prefetching(line, remotes, blobs) as fetch:
                for remote in remotes:
                    async with aclosing(fetch(remote)) as fetching:
                        async for progress in fetching:
                            yield progress
        await run_to_end(_check_config, blobs, manifest)
        yield data

    async def plan(self) -> tuple[Planned, ...]:
        """As Source says."""
        async with self._registry.open(self._name, self._options) as line:
            manifest = _parse(await self._manifest(line))
        blobs = dict.fromkeys(manifest.blobs)
        return tuple(Planned(blob.digest.short, blob.size_bytes, blob.digest) for blob in blobs)

    async def _manifest(self, line: Line) -> bytes:
        url = manifest_url(self._name, self._options)
        try:
            return await line.document(url, MAX_MANIFEST_BYTES, {hdrs.ACCEPT: MANIFEST_TYPE})
        except SourceRefused as error:
            if error.status == 404:
                raise SourceNotFound from error
            raise SourceError(f"pull model manifest: {error}") from error
        except SourceError as error:
            raise SourceError(f"pull model manifest: {error}") from error

    def _blob_url(self, digest: Digest) -> URL:
        return repository_url(self._name, self._options) / "blobs" / str(digest)


def origin_of(name: ModelName, options: TransferOptions) -> URL:
    """Scheme, host and port of the name's registry."""
    if name.scheme == "http" and not options.insecure:
        raise SourceError("insecure protocol http")
    scheme = "http" if options.insecure else name.scheme
    try:
        return URL(f"{scheme}://{name.host}").origin()
    except ValueError as error:
        raise SourceError(f"{name.host} is no address of a registry") from error


def repository_url(name: ModelName, options: TransferOptions) -> URL:
    return origin_of(name, options) / "v2" / name.namespace / name.model


def manifest_url(name: ModelName, options: TransferOptions) -> URL:
    return repository_url(name, options) / "manifests" / name.tag


def _parse(data: bytes) -> Manifest:
    try:
        return parse_new_manifest(data)
    except StoreError as error:
        raise SourceError(f"pull model manifest: {error}") from error


def _check_config(blobs: BlobStore, manifest: Manifest) -> None:
    """A model whose config cannot be read could not even be listed."""
    try:
        parse_config(blobs.read(manifest.config.digest))
    except StoreError as error:
        raise SourceError(f"pull model manifest: {error}") from error
