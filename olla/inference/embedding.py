"""Embedding: the one path of vectors and scores, in all dialects: resolve, load, compute.

Knows no JSON and no arithmetic, which is the runner's. Any model embeds, whatever it was made for
(spec/api.md section 6.1). A client that leaves cancels what is computed for it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

from olla.errors import ModelNotFound
from olla.inference.resolve import resolve
from olla.inference.work import runnable, window
from olla.registry.store import ModelStore
from olla.requests import EmbedReply, EmbedRequest, Rank, RerankReply, RerankRequest, Timings
from olla.runner.pool import Lease, RunnerPool
from olla.runner.protocol import Embed, Rerank
from olla.settings import Settings


class Embedding:
    def __init__(self, store: ModelStore, pool: RunnerPool, settings: Settings) -> None:
        self._store = store
        self._pool = pool
        self._settings = settings

    async def embed(self, request: EmbedRequest) -> EmbedReply:
        """A vector for each input; without inputs, load the model.

        Raises:
            OllaError: no such model, it cannot be loaded, or an input cannot be used.
        """
        started = time.monotonic_ns()
        async with self._leased(request) as (lease, num_ctx):
            message = Embed(
                id=0,
                inputs=[item if isinstance(item, str) else list(item) for item in request.inputs],
                num_ctx=num_ctx,
                truncate=request.truncate,
                dimensions=request.dimensions,
                normalize=request.normalize,
            )
            async with lease.turn():
                vectors, num_tokens = await _collect(lease, message) if request.inputs else ((), 0)
        return EmbedReply(vectors, _timings(started, lease, num_tokens))

    async def rerank(self, request: RerankRequest) -> RerankReply:
        """The documents that answer the query best; equally good ones in their order.

        Raises:
            OllaError: as for `embed`.
        """
        started = time.monotonic_ns()
        async with self._leased(request) as (lease, num_ctx):
            documents = list(request.documents)
            async with lease.turn():
                scores = await lease.runner.rerank(Rerank(0, request.query, documents, num_ctx))
        ranks = [Rank(index, score) for index, score in enumerate(scores.scores)]
        ranks.sort(key=lambda rank: -rank.score)
        best = tuple(ranks[: request.top_n or len(ranks)])
        return RerankReply(best, _timings(started, lease, scores.num_tokens))

    @asynccontextmanager
    async def _leased(
        self, request: EmbedRequest | RerankRequest
    ) -> AsyncIterator[tuple[Lease, int]]:
        """The model's runner while it is in use, and the window for each input."""
        try:
            model = await asyncio.to_thread(resolve, self._store, request.model)
        except ModelNotFound as error:
            text = f'model "{request.model}" not found, try pulling it first'
            raise ModelNotFound(request.model, text) from error
        options = model.options.merge(request.options)
        num_ctx = window(model, options, self._settings, least=1)
        asked = runnable(model, options, num_ctx, self._settings)
        lease = await self._pool.acquire(asked, request.keep_alive_s)
        try:
            yield lease, num_ctx
        finally:
            lease.release()


async def _collect(lease: Lease, message: Embed) -> tuple[tuple[bytes, ...], int]:
    """The vectors in the order of their inputs, and how many tokens were read for them."""
    vectors = [b""] * len(message.inputs)
    num_tokens = 0
    async with aclosing(lease.runner.embed(message)) as replies:
        async for reply in replies:
            width = len(reply.vectors) // max(len(reply.places), 1)
            for number, place in enumerate(reply.places):
                vectors[place] = reply.vectors[number * width : (number + 1) * width]
            num_tokens += sum(reply.num_tokens)
    return tuple(vectors), num_tokens


def _timings(started: int, lease: Lease, num_tokens: int) -> Timings:
    total_ns = time.monotonic_ns() - started
    return Timings(total_ns=total_ns, load_ns=lease.load_ns, num_prompt_tokens=num_tokens)
