"""FirstOf: sources of one model, the next one asked when one refuses."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

from olla.errors import BadInput, BlobCorrupt, OllaError, SourceError, SourceNotFound
from olla.registry.blobs import BlobStore
from olla.registry.disk import Hold
from olla.registry.manifest import Manifest
from olla.requests import Progress
from olla.sources.base import Source
from olla.sources.download import Planned

_REFUSALS = (SourceError, BlobCorrupt, BadInput)


class FirstOf:
    def __init__(self, name: str, sources: Mapping[str, Source]) -> None:
        """`sources`: by what users call each."""
        self._name = name
        self.sources = sources

    async def fetch(
        self, blobs: BlobStore, hold: Hold
    ) -> AsyncGenerator[Progress | Manifest | bytes, None]:
        """As Source says. What one source brought before it refused, the next need not bring."""
        refusals: dict[str, OllaError] = {}
        for label, source in self.sources.items():
            if refusals:
                yield Progress(f"{', '.join(refusals)} refused, trying {label}")
            try:
                async with aclosing(source.fetch(blobs, hold)) as fetching:
                    async for item in fetching:
                        yield item
            except _REFUSALS as error:
                refusals[label] = error
            else:
                return
        raise self._error(refusals)

    async def plan(self) -> tuple[Planned, ...]:
        refusals: dict[str, OllaError] = {}
        for label, source in self.sources.items():
            try:
                return await source.plan()
            except _REFUSALS as error:
                refusals[label] = error
        raise self._error(refusals)

    def _error(self, refusals: dict[str, OllaError]) -> SourceError:
        if all(isinstance(error, SourceNotFound) for error in refusals.values()):
            return SourceNotFound(f"tried {', '.join(refusals)}")
        told = "; ".join(f"{label}: {error}" for label, error in refusals.items())
        return SourceError(f"no source could give {self._name}: {told}")
