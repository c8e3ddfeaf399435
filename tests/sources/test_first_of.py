"""One source after the other: fallback, what is told, and what is not caught."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass

import pytest

from olla.errors import BadInput, BlobCorrupt, OllaError, SourceError, SourceNotFound, StoreError
from olla.registry.blobs import BlobStore
from olla.registry.disk import Hold
from olla.registry.store import ModelStore
from olla.requests import Progress
from olla.sources.download import Planned
from olla.sources.first_of import FirstOf


@dataclass
class FakeSource:
    """Says one thing, then refuses or gives its manifest."""

    answer: bytes | OllaError
    is_closed: bool = False

    async def fetch(self, blobs: BlobStore, hold: Hold) -> AsyncGenerator[Progress | bytes, None]:
        try:
            yield Progress("pulling x")
            yield self._answer()
        finally:
            self.is_closed = True

    async def plan(self) -> tuple[Planned, ...]:
        return (Planned(self._answer().decode(), 1),)

    def _answer(self) -> bytes:
        if isinstance(self.answer, OllaError):
            raise self.answer
        return self.answer


async def items_of(store: ModelStore, source: FirstOf) -> list[object]:
    with store.hold() as hold:
        return [item async for item in source.fetch(store.blobs, hold)]


async def test_the_first_that_has_it_is_enough(store: ModelStore) -> None:
    second = FakeSource(b"second")

    items = await items_of(store, FirstOf("m", {"a": FakeSource(b"first"), "b": second}))

    assert items == [Progress("pulling x"), b"first"]


@pytest.mark.parametrize(
    "refusal", [SourceNotFound(), SourceError("503"), BlobCorrupt("bad"), BadInput("pickles")]
)
async def test_the_next_is_asked_where_one_refuses(store: ModelStore, refusal: OllaError) -> None:
    first = FakeSource(refusal)
    source = FirstOf("m", {"a": first, "b": FakeSource(b"second")})

    items = await items_of(store, source)

    assert items[1:] == [Progress("a refused, trying b"), Progress("pulling x"), b"second"]
    assert await source.plan() == (Planned("second", 1),)
    assert first.is_closed


async def test_the_error_tells_what_was_tried(store: ModelStore) -> None:
    source = FirstOf("m:1b", {"a": FakeSource(SourceError("503")), "b": FakeSource(BadInput("no"))})

    with pytest.raises(SourceError) as caught:
        await items_of(store, source)
    with pytest.raises(SourceError, match="a: 503; b: no"):
        await source.plan()
    assert str(caught.value) == "no source could give m:1b: a: 503; b: no"


async def test_what_nobody_has_is_not_found(store: ModelStore) -> None:
    source = FirstOf("m", {label: FakeSource(SourceNotFound()) for label in ("a", "b")})

    with pytest.raises(SourceNotFound) as caught:
        await items_of(store, source)
    assert str(caught.value) == "pull model manifest: file does not exist (tried a, b)"


async def test_a_store_that_refuses_is_the_end(store: ModelStore) -> None:
    source = FirstOf("m", {"a": FakeSource(StoreError("full")), "b": FakeSource(b"second")})

    with pytest.raises(StoreError, match="full"):
        await items_of(store, source)
