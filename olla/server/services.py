"""Services: what the handlers work with, made once by `create_app` and handed to each request.

Knows nothing about routes. The fields are all a test replaces to run the server on fakes.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from aiohttp import web

from olla.inference.embedding import Embedding
from olla.inference.service import Inference
from olla.registry.store import ModelStore
from olla.runner.pool import RunnerPool
from olla.server.conversations import Conversations
from olla.server.metered import Answers, MeteredAnswers, Pull, metered_pull
from olla.server.metrics import Metrics, PoolCollector
from olla.settings import Settings
from olla.sources.pull import pull


@dataclass(frozen=True, slots=True)
class Services:
    """`stopping` is set once, when the daemon is to end."""

    settings: Settings
    store: ModelStore
    pool: RunnerPool
    inference: Answers
    pull: Pull = pull
    metrics: Metrics = field(default_factory=Metrics)
    conversations: Conversations = field(default_factory=Conversations)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def embedding(self) -> Embedding:
        return Embedding(self.store, self.pool, self.settings)

    @classmethod
    def start(cls, settings: Settings) -> Services:
        store = ModelStore(settings.models, settings.prune, settings.go_template)
        metrics = Metrics()
        pool = RunnerPool(settings, observer=metrics)
        PoolCollector(pool, metrics)
        inference = MeteredAnswers(Inference(store, pool, settings), metrics)
        return cls(settings, store, pool, inference, metered_pull(pull, metrics), metrics)


SERVICES = web.AppKey("services", Services)
