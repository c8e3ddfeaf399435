"""Source: a place that models come from, and which one a name means."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

from olla.errors import SourceNotFound
from olla.names import ModelName
from olla.registry.blobs import BlobStore
from olla.registry.disk import Hold
from olla.registry.manifest import Manifest
from olla.requests import Progress
from olla.sources.catalogue import PACKAGED_MODELS
from olla.sources.hubs import hub_source
from olla.sources.package import PackageSource


class Source(Protocol):
    def fetch(self, blobs: BlobStore, hold: Hold) -> AsyncGenerator[Progress | Manifest, None]:
        """Bring every blob of one model into the store, held; the last item is its manifest.

        Closing the generator stops the transfer and clears away what was half done.

        Raises:
            SourceError: the source refused or broke.
            BlobCorrupt: it sent other bytes than it promised.
            StoreError: the store refused.
        """
        ...


def source_for(name: ModelName) -> Source:
    """Where the model of that name comes from.

    Raises:
        SourceNotFound: no source knows it.
    """
    hub = hub_source(name)
    if hub is not None:
        return hub
    package = PACKAGED_MODELS.get(name.folded().short)
    if package is None:
        raise SourceNotFound
    return PackageSource(package)
