"""Source: a place that models come from."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

from olla.registry.blobs import BlobStore
from olla.registry.disk import Hold
from olla.registry.manifest import Manifest
from olla.requests import Progress
from olla.sources.download import Planned


class Source(Protocol):
    def fetch(
        self, blobs: BlobStore, hold: Hold
    ) -> AsyncGenerator[Progress | Manifest | bytes, None]:
        """Bring every blob of one model into the store, held; the last item is its manifest, as
        bytes where those have to be kept.

        Closing the generator stops the transfer; what came may be kept for the next one.

        Raises:
            SourceError: the source refused or broke.
            BlobCorrupt: it sent other bytes than it promised.
            BadInput: what it has is no model that olla loads.
            StoreError: the store refused.
        """
        ...

    async def plan(self) -> tuple[Planned, ...]:
        """What `fetch` would bring if nothing of it were here; brings nothing.

        Raises:
            SourceError, BadInput: as `fetch`.
        """
        ...
