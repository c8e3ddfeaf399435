"""Split GGUF files from hubs: they come in parts, with resume, and are one blob in the store."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest

from olla.errors import BadInput, BlobCorrupt, FormatError, StoreError
from olla.names import ModelName
from olla.registry.manifest import MediaType
from olla.registry.store import ModelStore
from olla.registry.usage import usage_of
from olla.requests import Progress
from olla.sources.choose import Sources
from olla.sources.ollama import Registry
from olla.sources.pull import plan_pull, pull
from tests.gguf_split import split_gguf
from tests.modelfile.conftest import write_gguf
from tests.sources.hub_server import Hub, Repo, sha256
from tests.sources.modelscope_server import ModelScope
from tests.sources.pulling import Pulled

PARTS = [f"Q4_K_M/Tiny-Q4_K_M-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
NAME = "hf.co/org/tiny:q4_k_m"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    return write_gguf(folder / "whole.gguf", {"general.name": "Tiny"})


@pytest.fixture(scope="module")
def files(whole: Path) -> Mapping[str, bytes]:
    """A repository with one file in parts in a folder, as large ones are, and a whole one."""
    parts = split_gguf(whole, whole.with_name("Tiny-Q4_K_M"), 6)
    [copy] = split_gguf(whole, whole.with_name("Tiny-Q8_0"), 0)
    split = {f"Q4_K_M/{path.name}": path.read_bytes() for path in parts}
    assert [*split] == PARTS
    return {"README.md": b"# Tiny\n", "LICENSE": b"Yes.", copy.name: copy.read_bytes(), **split}


@pytest.fixture
def hub(huggingface: Hub, files: Mapping[str, bytes]) -> Hub:
    huggingface.repos["org/tiny"] = Repo(files)
    return huggingface


def stored_blobs(store: ModelStore) -> set[str]:
    """The files in the store that are blobs or would be."""
    names = {path.name for path in store.blobs.directory.iterdir()}
    return {name for name in names if not name.endswith("-parts")}


@pytest.mark.parametrize("name", ["hf.co/org/tiny:q4_k_m", "modelscope.cn/org/tiny"])
async def test_the_parts_are_one_blob_that_ollama_can_read(
    hub: Hub,
    modelscope: ModelScope,
    files: Mapping[str, bytes],
    pulled: Pulled,
    store: ModelStore,
    name: str,
) -> None:
    modelscope.repos["org/tiny"] = Repo(files)

    model, steps = await pulled(name)

    assert model.files["model.gguf"].read_bytes() == files["Tiny-Q8_0.gguf"]
    [weights] = model.manifest.layers_of(MediaType.MODEL)
    assert stored_blobs(store) == {blob.digest.file_name for blob in model.manifest.blobs}
    assert model.licenses == ("Yes.",)
    assert (model.parameter_size, model.quantization_level) == ("21K", "F32")
    bars = {step.status: step for step in steps if step.total_bytes}
    assert all(step.completed_bytes == step.total_bytes for step in bars.values())
    sizes = [step.total_bytes for status, step in bars.items() if status.startswith("pulling")]
    assert sizes[:3] == [len(files[part]) for part in PARTS]
    assert bars["joining the 3 parts of Tiny-Q4_K_M.gguf"].total_bytes == weights.size_bytes


async def test_a_second_pull_brings_no_weights(
    hub: Hub, pulled: Pulled, store: ModelStore, registry: Registry
) -> None:
    first, _ = await pulled(NAME)
    hub.requests.clear()
    source = Sources(registry).source_for(ModelName.parse(NAME))

    second, steps = await pulled(NAME)
    planned = [step async for step in plan_pull(store, source)]

    assert hub.fetched == ["LICENSE"]  # which has no digest on the hub
    assert second.manifest == first.manifest
    assert not [step for step in steps if step.status.startswith("joining")]
    assert [step.status for step in planned[1:4]] == [f"have {part}" for part in PARTS]


async def test_what_another_store_has_is_not_pulled(
    hub: Hub, pulled: Pulled, store: ModelStore, registry: Registry, tmp_path: Path
) -> None:
    first, _ = await pulled(NAME)
    hub.requests.clear()
    second = ModelStore(tmp_path / "second", extra=(tmp_path / "none", tmp_path / "store"))
    name = ModelName.parse(NAME)

    steps = [step async for step in pull(name, second, Sources(registry).source_for(name))]

    assert steps[-1] == Progress("success")
    assert hub.fetched == ["LICENSE"]
    assert second.resolve(name).files == first.files


async def test_a_note_of_parts_is_neither_unused_nor_left_behind(
    hub: Hub, pulled: Pulled, store: ModelStore
) -> None:
    model, _ = await pulled(NAME)

    assert usage_of(store).unused_bytes == 0
    assert store.collect(min_age_s=0) == ()
    store.delete(model.name)
    assert list(store.blobs.directory.iterdir()) == []


async def test_the_whole_file_is_known_by_its_bytes(
    hub: Hub, pulled: Pulled, store: ModelStore
) -> None:
    whole, _ = await pulled("hf.co/org/tiny:q8_0")
    split, _ = await pulled(NAME)

    assert split.weights_key == whole.weights_key


async def test_a_plan_has_each_part(hub: Hub, store: ModelStore, registry: Registry) -> None:
    source = Sources(registry).source_for(ModelName.parse(NAME))

    steps = [step async for step in plan_pull(store, source)]

    assert [step.status for step in steps[1:-1]] == [
        *(f"would pull {part}" for part in PARTS),
        "would pull LICENSE",
    ]
    assert hub.fetched == []


async def test_parts_that_came_are_not_brought_again(
    hub: Hub, files: Mapping[str, bytes], pulled: Pulled, store: ModelStore
) -> None:
    broken = files[PARTS[2]][:-1] + b"\x01"
    hub.repos["org/tiny"] = Repo(files, sent={PARTS[2]: broken})
    with pytest.raises(BlobCorrupt):
        await pulled(NAME)
    assert store.list() == ()
    hub.repos["org/tiny"] = Repo(files)
    hub.requests.clear()

    await pulled(NAME)

    assert hub.fetched == [PARTS[2], "LICENSE"]


async def test_two_pulls_at_once_make_one_model(
    hub: Hub, store: ModelStore, registry: Registry
) -> None:
    name = ModelName.parse(NAME)

    async def bring() -> Progress:
        source = Sources(registry).source_for(name)
        return [step async for step in pull(name, store, source)][-1]

    assert set(await asyncio.gather(bring(), bring())) == {Progress("success")}
    model = store.resolve(name)
    assert stored_blobs(store) == {blob.digest.file_name for blob in model.manifest.blobs}


async def test_parts_that_do_not_fit_together_make_no_model(
    hub: Hub, files: Mapping[str, bytes], pulled: Pulled, store: ModelStore
) -> None:
    hub.repos["org/tiny"] = Repo({**files, PARTS[1]: files[PARTS[2]]})

    with pytest.raises(FormatError, match=r"00002-of-00003.gguf says that it is part 3 of 3"):
        await pulled(NAME)
    assert store.list() == ()


async def test_a_missing_part_is_named_before_anything_is_fetched(
    hub: Hub, files: Mapping[str, bytes], pulled: Pulled
) -> None:
    hub.repos["org/tiny"] = Repo({name: files[name] for name in files if name != PARTS[1]})

    with pytest.raises(BadInput, match=r"^hf.co/org/tiny: .*00002-of-00003.gguf is missing"):
        await pulled(NAME)
    assert hub.fetched == []


async def test_room_is_needed_for_the_parts_and_the_whole(
    hub: Hub, pulled: Pulled, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Small:
        f_frsize = 1
        f_bavail = 100_000  # the parts would fit

    monkeypatch.setattr("os.statvfs", lambda path: Small)

    with pytest.raises(StoreError, match="no space left on device"):
        await pulled(NAME)
    assert hub.fetched == []


async def test_closing_a_pull_while_it_joins_keeps_the_parts(
    hub: Hub, store: ModelStore, registry: Registry
) -> None:
    source = Sources(registry).source_for(ModelName.parse(NAME))
    with store.hold() as hold:
        fetching = source.fetch(store.blobs, hold)
        async for step in fetching:
            if isinstance(step, Progress) and step.status.startswith("joining"):
                break
        await fetching.aclose()

    parts = {f"sha256-{sha256(hub.repos['org/tiny'].files[part])}" for part in PARTS}
    assert parts <= stored_blobs(store)
