"""A server on the real store, with fakes where runners and the network would be."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp import ClientResponse, web
from aiohttp.test_utils import TestClient, TestServer

from olla.address import Address
from olla.caller import CALLER, Caller
from olla.errors import OllaError, SourceNotFound
from olla.inference.service import Inference
from olla.names import ModelName
from olla.registry.manifest import (
    CONFIG_TYPE,
    Layer,
    Manifest,
    MediaType,
    ModelConfig,
    format_config,
    format_manifest,
)
from olla.registry.store import ModelStore
from olla.requests import ChatChunk, InferenceRequest, Progress, TransferOptions
from olla.runner.pool import LoadedModel, LoadingModel, RunnerPool, Waiting
from olla.server.app import create_app
from olla.server.services import Services
from olla.settings import Settings
from tests.formats.gguf_writer import tiny_model

HANG = object()
"""In a script: wait until cancelled."""

Client = TestClient[web.Request, web.Application]
StartClient = Callable[[web.Application | TestServer], Awaitable[Client]]


@dataclass
class FakeInference:
    """Answers every request by its script: chunks to send, errors to raise, HANG."""

    script: list[object] = field(default_factory=list)
    requests: list[InferenceRequest] = field(default_factory=list)
    callers: list[Caller] = field(default_factory=list)
    hangs: asyncio.Event = field(default_factory=asyncio.Event)
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    async def chat(self, request: InferenceRequest) -> AsyncGenerator[ChatChunk, None]:
        self.requests.append(request)
        self.callers.append(CALLER.get())
        try:
            for step in self.script:
                if isinstance(step, Exception):
                    raise step
                if step is HANG:
                    self.hangs.set()
                    await asyncio.Event().wait()
                yield cast(ChatChunk, step)
        finally:
            self.closed.set()

    generate = chat

    async def count_tokens(self, request: InferenceRequest) -> int:
        async with aclosing(self.chat(request)) as chunks:
            return sum([chunk.timings.num_prompt_tokens async for chunk in chunks])


@dataclass
class FakePool:
    loaded: tuple[LoadedModel, ...] = ()
    on_their_way: tuple[LoadingModel, ...] = ()
    waiting: tuple[Waiting, ...] = ()
    unloaded: list[ModelName] = field(default_factory=list)
    is_closed: bool = False

    def list(self) -> tuple[LoadedModel, ...]:
        return self.loaded

    def loading(self) -> tuple[LoadingModel, ...]:
        return self.on_their_way

    def queue(self) -> tuple[Waiting, ...]:
        return self.waiting

    def unload(self, name: ModelName) -> None:
        self.unloaded.append(name)

    async def close(self) -> None:
        self.is_closed = True


@dataclass
class FakeSource:
    """Has the models named in `models`, as copies of a tiny one."""

    models: set[str] = field(default_factory=set)
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    hangs: asyncio.Event = field(default_factory=asyncio.Event)
    never_ends: bool = False
    options: list[TransferOptions] = field(default_factory=list)
    destinations: list[str] = field(default_factory=list)
    failure: OllaError | None = None

    async def pull(
        self, name: ModelName, store: ModelStore, options: TransferOptions
    ) -> AsyncGenerator[Progress, None]:
        self.options.append(options)
        try:
            yield Progress("pulling manifest")
            if self.never_ends:
                self.hangs.set()
                await asyncio.Event().wait()
            if self.failure:
                raise self.failure
            if name.short not in self.models:
                raise SourceNotFound
            add_model(store, name.full)
            yield Progress("success")
        finally:
            self.closed.set()

    async def push(
        self, name: ModelName, destination: ModelName, store: ModelStore, options: TransferOptions
    ) -> AsyncGenerator[Progress, None]:
        self.options.append(options)
        self.destinations.append(destination.short)
        yield Progress("retrieving manifest")
        store.read_manifest(name)
        yield Progress("success")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, models=tmp_path / "models", address=Address(port=0))


@pytest.fixture
def store(settings: Settings) -> ModelStore:
    return ModelStore(settings.models)


@pytest.fixture
def inference() -> FakeInference:
    return FakeInference()


@pytest.fixture
def pool() -> FakePool:
    return FakePool()


@pytest.fixture
def source() -> FakeSource:
    return FakeSource()


@pytest.fixture
def services(
    settings: Settings,
    store: ModelStore,
    inference: FakeInference,
    pool: FakePool,
    source: FakeSource,
) -> Services:
    return Services(
        settings,
        store,
        cast(RunnerPool, pool),
        cast(Inference, inference),
        source.pull,
        source.push,
    )


@pytest.fixture
async def client(aiohttp_client: StartClient, settings: Settings, services: Services) -> Client:
    server = TestServer(create_app(settings, services))
    await server.start_server(auto_decompress=False)  # as serve() has it
    return await aiohttp_client(server)


def add_model(store: ModelStore, name: str, **layers: bytes) -> None:
    """Store a tiny GGUF model; `layers` are further ones, named as in MediaType."""
    weights = tiny_model().to_bytes()
    config = ModelConfig(
        model_format="gguf",
        model_family="llama",
        model_families=("llama",),
        model_type="1.2M",
        file_type="Q4_0",
    )
    contents = [(MediaType.MODEL, weights)]
    contents += [(MediaType[kind.upper()], data) for kind, data in layers.items()]
    manifest = Manifest(
        config=_put(store, CONFIG_TYPE, format_config(config)),
        layers=tuple(_put(store, kind, data) for kind, data in contents),
    )
    store.put(ModelName.parse(name), format_manifest(manifest))


def _put(store: ModelStore, media_type: str, data: bytes) -> Layer:
    return Layer(media_type, store.blobs.put(data), len(data))


async def error_of(response: ClientResponse) -> tuple[int, str]:
    """The status and the text of an error; nothing else is in its body."""
    body = await response.json()
    assert list(body) == ["error"]
    assert response.content_type == "application/json"
    return response.status, body["error"]


async def lines_of(response: ClientResponse) -> list[dict[str, Any]]:
    """The objects of a stream."""
    assert response.status == 200
    assert response.headers["Content-Type"] == "application/x-ndjson"
    text = await response.text()
    assert text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


async def openai_error_of(response: ClientResponse) -> tuple[int, str, str]:
    """The status, the type and the text of an error; nothing else is in its body."""
    body = await response.json()
    assert list(body) == ["error"]
    assert body["error"].keys() == {"message", "type", "param", "code"}
    return response.status, body["error"]["type"], body["error"]["message"]


async def events_of(response: ClientResponse) -> list[str]:
    """The events of a stream, as they stand."""
    assert response.status == 200
    assert response.headers["Content-Type"] == "text/event-stream"
    assert response.headers["Cache-Control"] == "no-cache"
    text = await response.text()
    assert text.endswith("\n\n")
    return text.removesuffix("\n\n").split("\n\n")


async def open_connection(client: Client) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A bare connection to the server, to do on it what no HTTP client does."""
    return await asyncio.open_connection(client.server.host, client.server.port)


async def until(condition: Callable[[], bool]) -> None:
    """Let others run until it holds."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - of files and processes, which set no event
            await asyncio.sleep(0.005)
