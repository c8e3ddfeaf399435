"""pull: a model from its source into the store, step by step (spec/api.md section 7.8).

Invariant: the manifest is written last, over blobs that a hold keeps until then, so half a pull
is never a model.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import ExitStack, aclosing

from olla.names import ModelName
from olla.registry.blobs import BlobStore
from olla.registry.manifest import format_manifest
from olla.registry.partial import stored_bytes
from olla.registry.store import ModelStore
from olla.registry.threads import run_to_end
from olla.requests import Progress
from olla.sources.base import Source
from olla.sources.download import Planned


async def pull(
    name: ModelName, store: ModelStore, source: Source
) -> AsyncGenerator[Progress, None]:
    """Bring the model `name` into the store; the last step is "success".

    Raises:
        SourceNotFound: the source has no such model.
        SourceError, StoreError: the source or the store refused.
    """
    yield Progress("pulling manifest")
    with ExitStack() as stack:
        hold = await run_to_end(stack.enter_context, store.hold())
        manifest = b""
        async with aclosing(source.fetch(store.blobs, hold)) as fetching:
            async for item in fetching:
                if isinstance(item, Progress):
                    yield item
                else:
                    manifest = item if isinstance(item, bytes) else format_manifest(item)
        yield Progress("verifying sha256 digest")
        yield Progress("writing manifest")
        num_removed = await run_to_end(store.put, name, manifest)
    await run_to_end(store.discard, hold.digests)  # parts that were joined
    if num_removed:
        yield Progress("removing unused layers")
    yield Progress("success")


async def plan_pull(store: ModelStore, source: Source) -> AsyncGenerator[Progress, None]:
    """What a pull would bring, one report for each blob with how much of it is here already."""
    yield Progress("pulling manifest")
    for planned in await source.plan():
        here = await asyncio.to_thread(_stored_bytes, store.blobs, planned)
        status = f"{'have' if here == planned.size_bytes else 'would pull'} {planned.what}"
        yield Progress(status, str(planned.digest or ""), planned.size_bytes, here)
    yield Progress("success")


def _stored_bytes(blobs: BlobStore, planned: Planned) -> int:
    if planned.digest is None:
        return 0
    if any(planned.digest in parts for parts in blobs.joined()):
        return planned.size_bytes
    return stored_bytes(blobs, planned.digest, planned.size_bytes)
