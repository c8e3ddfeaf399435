"""Services: what the handlers work with, made once by `create_app` and handed to each request.

Knows nothing about routes. The fields are all a test replaces to run the server on fakes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web

from olla.errors import SourceNotFound
from olla.inference.embedding import Embedding
from olla.inference.service import Inference
from olla.names import ModelName
from olla.registry.store import ModelStore
from olla.requests import Progress, TransferOptions
from olla.runner.pool import RunnerPool
from olla.server.conversations import Conversations
from olla.server.metered import Answers, MeteredAnswers, Push, Transfer, metered_pull
from olla.server.metrics import Metrics, PoolCollector
from olla.settings import Settings
from olla.sources.choose import Sources
from olla.sources.ollama import Registry
from olla.sources.ollama_auth import Keyring
from olla.sources.pull import plan_pull, pull


@dataclass(frozen=True, slots=True)
class Services:
    """`stopping` is set once, when the daemon is to end."""

    settings: Settings
    store: ModelStore
    pool: RunnerPool
    inference: Answers
    pull: Transfer
    push: Push
    metrics: Metrics = field(default_factory=Metrics)
    conversations: Conversations = field(default_factory=Conversations)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def embedding(self) -> Embedding:
        return Embedding(self.store, self.pool, self.settings)

    @classmethod
    def start(cls, settings: Settings) -> Services:
        store = ModelStore(
            settings.models, settings.prune, settings.go_template, settings.models_extra
        )
        metrics = Metrics()
        pool = RunnerPool(settings, observer=metrics)
        PoolCollector(pool, metrics)
        inference = MeteredAnswers(Inference(store, pool, settings), metrics)
        registry = Registry(Keyring(settings.home, Path.home()))
        sources = Sources(registry, settings.sources)
        pulling = metered_pull(_pull(sources), metrics)
        return cls(settings, store, pool, inference, pulling, sources.push, metrics)


def _pull(sources: Sources) -> Transfer:
    async def start(
        name: ModelName, store: ModelStore, options: TransferOptions
    ) -> AsyncGenerator[Progress, None]:
        try:
            source = sources.source_for(name, options)
        except SourceNotFound:
            yield Progress("pulling manifest")  # clients look for the error behind it
            raise
        steps = plan_pull(store, source) if options.dry_run else pull(name, store, source)
        async with aclosing(steps):
            async for step in steps:
                yield step

    return start


SERVICES = web.AppKey("services", Services)
