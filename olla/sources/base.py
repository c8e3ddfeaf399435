"""Source: a place that models come from, and which one a name means."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

from olla.names import ModelName
from olla.registry.blobs import BlobStore
from olla.registry.disk import Hold
from olla.registry.manifest import Manifest
from olla.requests import Progress, TransferOptions
from olla.sources.catalogue import PACKAGED_MODELS
from olla.sources.download import Planned
from olla.sources.ollama import OllamaSource, Registry
from olla.sources.package import PackageSource


class Source(Protocol):
    def fetch(
        self, blobs: BlobStore, hold: Hold
    ) -> AsyncGenerator[Progress | Manifest | bytes, None]:
        """Bring every blob of one model into the store, held; the last item is its manifest, as
        bytes where those have to be kept.

        Closing the generator stops the transfer and clears away what was half done.

        Raises:
            SourceError: the source refused or broke.
            BlobCorrupt: it sent other bytes than it promised.
            StoreError: the store refused.
        """
        ...

    async def plan(self) -> tuple[Planned, ...]:
        """What `fetch` would bring if nothing of it were here; brings nothing.

        Raises:
            SourceError: as `fetch`.
        """
        ...


def source_for(name: ModelName, options: TransferOptions, registry: Registry) -> Source:
    """Where the model of that name comes from."""
    package = PACKAGED_MODELS.get(name.folded().short)
    return PackageSource(package) if package else OllamaSource(name, options, registry)
