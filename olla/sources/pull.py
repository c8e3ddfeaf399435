"""pull: a model from its source into the store, step by step (spec/api.md section 7.8).

Invariant: the manifest is written last, over blobs that a hold keeps until then, so half a pull
is never a model.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import ExitStack, aclosing

from olla.names import ModelName
from olla.registry.manifest import Manifest, format_manifest
from olla.registry.store import ModelStore
from olla.registry.threads import run_to_end
from olla.requests import Progress
from olla.sources.base import Source, source_for


async def pull(
    name: ModelName, store: ModelStore, source: Source | None = None
) -> AsyncGenerator[Progress, None]:
    """Bring the model `name` into the store; the last step is "success".

    Args:
        source: where from, if not from where the name says.

    Raises:
        SourceNotFound: no source has it.
        SourceError, StoreError: the source or the store refused.
    """
    yield Progress("pulling manifest")
    source = source or source_for(name)
    with ExitStack() as stack:
        hold = await run_to_end(stack.enter_context, store.hold())
        async with aclosing(source.fetch(store.blobs, hold)) as fetching:
            async for item in fetching:
                if isinstance(item, Progress):
                    yield item
                else:
                    manifest: Manifest = item
        yield Progress("verifying sha256 digest")
        yield Progress("writing manifest")
        await run_to_end(store.put, name, format_manifest(manifest))
    yield Progress("success")
