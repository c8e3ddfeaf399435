"""What the daemon counts and measures, for Prometheus.

Every label has few values: routes as they are written in the table, methods and statuses that
exist, and models up to a number, past which they are one. Gauges are read when they are asked for.
"""

from __future__ import annotations

from collections.abc import Iterator

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from olla.names import ModelName
from olla.requests import Timings
from olla.runner.pool import RunnerPool
from olla.runner.protocol import Stepped
from olla.server.origins import Handler

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MAX_MODELS = 100
OTHER = "other"

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_STEP_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.25, 0.5, 1, 2.5, 5)


_TOKENS = {
    "prompt": "Tokens of prompts.",
    "cached": "Those of them found in the cache.",
    "reply": "Tokens of replies.",
    "drafted": "Tokens drafted for replies.",
    "accepted": "Those of them that were right.",
}


class Metrics:
    """Told of what happens; `text` is what there is to tell. It observes the pool of runners."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._models: set[str] = set()
        self._cache: dict[str, Stepped] = {}
        model = ("model",)
        self._requests = Counter(
            "olla_requests", "Requests by route.", ("method", "route", "status"), registry=registry
        )
        self._seconds = Histogram(
            "olla_request_seconds", "From request to the end of its reply.", ("route",),
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self._tokens = {
            kind: Counter(f"olla_{kind}_tokens", meaning, model, registry=registry)
            for kind, meaning in _TOKENS.items()
        }
        self._first_token = Histogram(
            "olla_time_to_first_token_seconds", "From request to the first words of its reply.",
            model, buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self._steps = Histogram(
            "olla_step_seconds", "Steps of the engine, each a token of every running reply.",
            model, buckets=_STEP_SECONDS, registry=registry,
        )  # fmt: skip
        self._loads = Counter(
            "olla_loads", "Loads of models that ended.", ("model", "result"), registry=registry
        )
        self._load_seconds = Histogram(
            "olla_load_seconds", "Loads that succeeded.", model, buckets=_SECONDS, registry=registry
        )
        self._pulled = Counter("olla_pulled_bytes", "Bytes that pulls brought.", registry=registry)

    def text(self) -> bytes:
        return generate_latest(self.registry)

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Count a request; one whose client left has the status 499."""
        status = 499
        resource = request.match_info.route.resource
        route = resource.canonical if resource is not None else OTHER
        with self._seconds.labels(route).time():
            try:
                response = await handler(request)
                status = response.status
                return response
            finally:
                method = request.method if request.method in _METHODS else OTHER
                self._requests.labels(method, route, str(status)).inc()

    def loaded(self, name: ModelName, seconds: float) -> None:
        model = self.label(name.short)
        self._loads.labels(model, "success").inc()
        self._load_seconds.labels(model).observe(seconds)

    def load_failed(self, name: ModelName) -> None:
        self._loads.labels(self.label(name.short), "failure").inc()

    def stepped(self, name: ModelName, stepped: Stepped) -> None:
        model = self.label(name.short)
        steps = self._steps.labels(model)
        for seconds in stepped.seconds:
            steps.observe(seconds)
        self._cache[model] = stepped

    def began(self, model: str, seconds: float) -> None:
        """The first words of a reply came."""
        self._first_token.labels(self.label(model)).observe(seconds)

    def ended(self, model: str, timings: Timings) -> None:
        """A reply came to its end."""
        label = self.label(model)
        counts = {
            "prompt": timings.num_prompt_tokens,
            "cached": timings.num_cached_tokens,
            "reply": timings.num_tokens,
            "drafted": timings.num_drafted_tokens,
            "accepted": timings.num_accepted_tokens,
        }
        for kind, count in counts.items():
            self._tokens[kind].labels(label).inc(count)

    def pulled(self, num_bytes: int) -> None:
        self._pulled.inc(max(num_bytes, 0))

    def label(self, model: str) -> str:
        """A model's label; those past a number of models share one."""
        if model not in self._models:
            if len(self._models) >= MAX_MODELS:
                return OTHER
            self._models.add(model)
        return model

    def cache_of(self, model: str) -> Stepped | None:
        """What a runner last told of its cache."""
        return self._cache.get(self.label(model))


class PoolCollector(Collector):
    """The runners as they are at the moment of asking."""

    def __init__(self, pool: RunnerPool, metrics: Metrics) -> None:
        self._pool = pool
        self._metrics = metrics
        metrics.registry.register(self)

    def describe(self) -> list[Metric]:
        return []  # or registering would collect

    def collect(self) -> Iterator[Metric]:
        queue = GaugeMetricFamily("olla_queue", "Requests that wait.", labels=["state"])
        waiting = [str(entry.state) for entry in self._pool.queue()]
        for state in ("loading", "queued"):
            queue.add_metric([state], waiting.count(state))
        yield queue
        yield from self._loaded()

    def _loaded(self) -> Iterator[Metric]:
        sizes = GaugeMetricFamily("olla_model_bytes", "Memory of loaded models.", labels=["model"])
        on_gpu = GaugeMetricFamily("olla_model_gpu_bytes", "Of that on GPUs.", labels=["model"])
        used = GaugeMetricFamily(
            "olla_cache_used_tokens", "Places of the cache in use, as last told.", labels=["model"]
        )
        places = GaugeMetricFamily("olla_cache_tokens", "Places of the cache.", labels=["model"])
        for model in self._pool.list():
            label = [self._metrics.label(model.name.short)]
            sizes.add_metric(label, model.size_bytes)
            on_gpu.add_metric(label, model.vram_bytes)
            cache = self._metrics.cache_of(model.name.short)
            if cache is not None:
                used.add_metric(label, cache.num_used_tokens)
                places.add_metric(label, cache.num_cache_tokens)
        yield from (sizes, on_gpu, used, places)
