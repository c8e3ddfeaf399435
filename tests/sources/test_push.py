"""Push to Debian's real registry, and pull from there again."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from olla.errors import ModelNotFound, SourceError, SourceNotFound, SourceUnauthorized
from olla.names import ModelName
from olla.registry.manifest import MediaType
from olla.registry.store import ModelStore
from olla.requests import Progress, TransferOptions
from olla.sources.ollama import OllamaSource, Registry
from olla.sources.ollama_auth import LOGINS_NAME
from olla.sources.pull import pull
from olla.sources.push import push
from tests.registry.models import put_model, verify
from tests.sources.docker_registry import (
    PASSWORD,
    USER,
    DockerRegistry,
    docker_registry,
    make_certificate,
)

INSECURE = TransferOptions(insecure=True)
WEIGHTS = random.Random(3).randbytes(3_000_000)
LAYERS = ((MediaType.MODEL, WEIGHTS), (MediaType.SYSTEM, b"Be brief."), (MediaType.LICENSE, b"MIT"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    with docker_registry(tmp_path_factory.mktemp("registry") / "r") as server:
        yield server


@pytest.fixture
def other(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "other")


async def send(
    registry: Registry, store: ModelStore, name: str, options: TransferOptions = INSECURE
) -> list[Progress]:
    return [step async for step in push(registry, ModelName.parse(name), store, options)]


async def bring(
    registry: Registry, store: ModelStore, name: str, options: TransferOptions = INSECURE
) -> list[Progress]:
    parsed = ModelName.parse(name)
    source = OllamaSource(parsed, options, registry)
    return [step async for step in pull(parsed, store, source)]


def log_in(tmp_path: Path, host: str, password: str = PASSWORD) -> None:
    login = base64.b64encode(f"{USER}:{password}".encode()).decode()
    path = tmp_path / "home" / LOGINS_NAME
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"auths": {host: {"auth": login}}}), encoding="utf-8")


async def test_what_was_pushed_comes_back_byte_for_byte(
    server: DockerRegistry, registry: Registry, store: ModelStore, other: ModelStore
) -> None:
    name = f"{server.host}/me/model:v1"
    put_model(store, name, *LAYERS)

    pushed = await send(registry, store, name)
    pulled = await bring(registry, other, name)

    parsed = ModelName.parse(name)
    assert other.read_manifest(parsed) == store.read_manifest(parsed)
    verify(other, name)
    blobs = store.resolve(parsed).manifest.blobs
    assert [(step.status, step.digest) for step in unique(pushed)] == [
        ("retrieving manifest", ""),
        *((f"pushing {blob.digest.short}", str(blob.digest)) for blob in blobs),
        ("pushing manifest", ""),
        ("success", ""),
    ]
    assert [(step.status, step.digest) for step in unique(pulled)] == [
        ("pulling manifest", ""),
        *((f"pulling {blob.digest.short}", str(blob.digest)) for blob in blobs),
        ("verifying sha256 digest", ""),
        ("writing manifest", ""),
        ("success", ""),
    ]
    for blob in blobs:
        last = [step for step in pushed if step.digest == str(blob.digest)][-1]
        assert last.completed_bytes == last.total_bytes == blob.size_bytes


def unique(steps: list[Progress]) -> list[Progress]:
    """The first report of each status."""
    return list({step.status: step for step in reversed(steps)}.values())[::-1]


async def test_what_is_there_is_not_sent_again(
    server: DockerRegistry, registry: Registry, store: ModelStore
) -> None:
    name = f"{server.host}/me/again"
    put_model(store, name, *LAYERS)
    await send(registry, store, name)

    steps = await send(registry, store, name)

    blobs = store.resolve(ModelName.parse(name)).manifest.blobs
    assert [step.completed_bytes for step in steps if step.digest] == [b.size_bytes for b in blobs]


async def test_a_blob_in_parts_arrives_whole(
    server: DockerRegistry,
    registry: Registry,
    store: ModelStore,
    other: ModelStore,
) -> None:
    registry = replace(registry, patience=replace(registry.patience, push_part_bytes=1_000_000))
    name = f"{server.host}/me/parts"
    put_model(store, name, (MediaType.MODEL, WEIGHTS[::-1]))

    await send(registry, store, name)
    await bring(registry, other, name)

    verify(other, name)


async def test_pulling_a_new_version_removes_what_only_the_old_one_had(
    server: DockerRegistry, registry: Registry, store: ModelStore, other: ModelStore
) -> None:
    name = f"{server.host}/me/versions"
    put_model(store, name, *LAYERS)
    await send(registry, store, name)
    await bring(registry, other, name)
    put_model(store, name, *LAYERS[1:])
    await send(registry, store, name)

    steps = await bring(registry, other, name)

    assert [step.status for step in steps[-3:]] == [
        "writing manifest",
        "removing unused layers",
        "success",
    ]
    assert not any(path.stat().st_size == len(WEIGHTS) for path in other.blobs.directory.iterdir())


async def test_a_model_that_the_registry_has_not(
    server: DockerRegistry, registry: Registry, store: ModelStore
) -> None:
    with pytest.raises(SourceNotFound, match=r"^pull model manifest: file does not exist$"):
        await bring(registry, store, f"{server.host}/me/none")


async def test_a_model_that_is_not_here_cannot_be_pushed(
    server: DockerRegistry, registry: Registry, store: ModelStore
) -> None:
    with pytest.raises(ModelNotFound):
        await send(registry, store, f"{server.host}/me/none")


async def test_plain_http_has_to_be_allowed(registry: Registry, store: ModelStore) -> None:
    name = "http://127.0.0.1:1/me/model"
    put_model(store, name, *LAYERS)

    for transfer in (bring, send):
        with pytest.raises(SourceError, match=r"^insecure protocol http$"):
            await transfer(registry, store, name, TransferOptions())


async def test_a_registry_without_tls_has_to_be_allowed(
    server: DockerRegistry, registry: Registry, store: ModelStore
) -> None:
    with pytest.raises(SourceError, match="plain HTTP needs --insecure"):
        await bring(registry, store, f"{server.host}/me/model", TransferOptions())


async def test_behind_a_password(
    tmp_path: Path, registry: Registry, store: ModelStore, other: ModelStore
) -> None:
    with docker_registry(tmp_path / "r", with_password=True) as server:
        name = f"{server.host}/me/secret"
        put_model(store, name, *LAYERS)
        with pytest.raises(SourceUnauthorized):
            await send(registry, store, name)
        log_in(tmp_path, server.host, "wrong")
        with pytest.raises(SourceUnauthorized):
            await send(registry, store, name)

        log_in(tmp_path, server.host)
        await send(registry, store, name)
        await bring(registry, other, name)

        verify(other, name)


async def test_over_tls_with_an_authority_of_its_own(
    tmp_path: Path,
    registry: Registry,
    store: ModelStore,
    other: ModelStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    certificate = make_certificate(tmp_path / "tls")
    with docker_registry(tmp_path / "r", tls=certificate) as server:
        name = f"{server.host}/me/tls"
        put_model(store, name, *LAYERS)
        with pytest.raises(SourceError, match="cannot trust the certificate of 127"):
            await send(registry, store, name, TransferOptions())

        monkeypatch.setenv("SSL_CERT_FILE", str(certificate.authority))
        await send(registry, store, name, TransferOptions())
        await bring(registry, other, name, TransferOptions())

        verify(other, name)


async def test_a_rate_limit_holds_for_pushes(
    server: DockerRegistry, registry: Registry, store: ModelStore
) -> None:
    name = f"{server.host}/me/slow"
    put_model(store, name, (MediaType.MODEL, WEIGHTS[:500_000]))

    steps = await send(registry, store, name, replace(INSECURE, limit_rate=1_000_000))

    assert len({step.completed_bytes for step in steps}) > 3
