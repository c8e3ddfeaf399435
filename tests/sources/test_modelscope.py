"""ModelScope by its real client, against a server of its protocol on loopback.

What all hubs have in common is tested with Hugging Face.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from olla.errors import BlobCorrupt, SourceError, SourceNotFound
from tests.sources.hub_models import adapter_files, gguf_bytes, gguf_files, safetensors_files
from tests.sources.hub_server import Repo
from tests.sources.modelscope_server import ModelScope
from tests.sources.pulling import Pulled

NEEDED = {
    *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"),
    *("chat_template.jinja", "model.safetensors"),
}


@pytest.fixture
def hub(modelscope: ModelScope) -> ModelScope:
    return modelscope


async def test_a_repository_of_safetensors(hub: ModelScope, pulled: Pulled) -> None:
    files = safetensors_files()
    hub.repos["org/tiny"] = Repo(files)

    model, _ = await pulled("modelscope.cn/org/tiny")

    assert {name: path.read_bytes() for name, path in model.files.items()} == {
        name: files[name] for name in NEEDED
    }
    assert set(hub.fetched) <= {*NEEDED, "LICENSE"}  # of two files with equal bytes, one
    assert model.licenses


async def test_a_gguf_file_by_its_tag(hub: ModelScope, pulled: Pulled) -> None:
    hub.repos["org/tiny"] = Repo(gguf_files("Q4_0", "Q8_0"))

    model, _ = await pulled("modelscope.cn/org/tiny:q8_0")

    assert model.files["model.gguf"].read_bytes() == gguf_bytes("Q8_0")


async def test_a_revision(hub: ModelScope, pulled: Pulled) -> None:
    hub.repos["org/tiny"] = Repo(gguf_files("Q4_0"), {"v1.0": gguf_files("Q8_0")})

    model, _ = await pulled("modelscope.cn/org/tiny:v1.0")

    assert model.files["model.gguf"].read_bytes() == gguf_bytes("Q8_0")


async def test_a_tag_that_is_neither_tells_what_there_is(hub: ModelScope, pulled: Pulled) -> None:
    hub.repos["org/tiny"] = Repo(gguf_files("Q4_0", "Q8_0"))

    with pytest.raises(SourceError, match="no revision v2, and no such GGUF file; it has Q4_0"):
        await pulled("modelscope.cn/org/tiny:v2")


async def test_an_adapter_brings_its_base(hub: ModelScope, pulled: Pulled) -> None:
    hub.repos["org/tiny"] = Repo(safetensors_files())
    hub.repos["me/lora"] = Repo(adapter_files("org/tiny"))

    model, _ = await pulled("modelscope.cn/me/lora")

    assert len(model.adapters) == 1
    assert set(model.files) == NEEDED


@pytest.mark.parametrize(
    "place",
    ["models/org--tiny.v1/snapshots/master", "models/org/tiny___v1", "hub/models/org/tiny___v1"],
)
async def test_what_a_client_has_in_its_cache_is_not_fetched(
    hub: ModelScope, pulled: Pulled, tmp_path: Path, place: str
) -> None:
    hub.repos["org/tiny.v1"] = Repo(gguf_files("Q4_0"))
    cached = tmp_path / "cache" / place / "Tiny-Q4_0.gguf"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(gguf_bytes("Q4_0"))

    model, _ = await pulled("modelscope.cn/org/tiny.v1")

    assert hub.fetched == []
    assert model.files["model.gguf"].read_bytes() == gguf_bytes("Q4_0")


async def test_the_token_opens_private_repositories(
    hub: ModelScope, pulled: Pulled, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repos["org/tiny"] = Repo(gguf_files("Q4_0"), is_private=True, is_gated=True)
    monkeypatch.setenv("MODELSCOPE_API_TOKEN", hub.token)

    assert await pulled("modelscope.cn/org/tiny")


@pytest.mark.parametrize(
    ("repos", "kind", "reason"),
    [
        ({}, SourceNotFound, "no repository org/tiny, or it is private.*MODELSCOPE_API_TOKEN"),
        (
            {"org/tiny": Repo({}, is_gated=True)},
            SourceError,
            "refuses org/tiny: ask for access at .*/models/org/tiny, then set MODELSCOPE_API_TOKEN",
        ),
        ({"org/tiny": Repo({"README.md": b""})}, SourceError, "no safetensors or GGUF files"),
    ],
)
async def test_a_repository_that_cannot_be_had(
    hub: ModelScope, pulled: Pulled, repos: dict[str, Repo], kind: type[Exception], reason: str
) -> None:
    hub.repos = repos

    with pytest.raises(kind, match=reason):
        await pulled("modelscope.cn/org/tiny")


async def test_a_hub_that_cannot_be_reached(
    pulled: Pulled, hub: ModelScope, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("modelscope_hub._legacy_api.REPO_TREE_PAGE_MAX_ATTEMPTS", 1)

    with pytest.raises(SourceError, match=r"cannot reach http://127.0.0.1:9"):
        await pulled("modelscope.cn/org/tiny")


@pytest.mark.parametrize(
    "lie",
    [
        {"Path": "../evil.gguf"},
        {"Path": "/evil.gguf"},
        {"Sha256": "no digest"},
        {"Sha256": 7},
        {"Size": -1},
        {"Size": "x"},
        {"Size": []},
        {"Path": ["x"]},
    ],
)
async def test_a_list_of_files_that_is_none(
    hub: ModelScope, pulled: Pulled, lie: dict[str, object]
) -> None:
    hub.repos["org/tiny"] = Repo(gguf_files("Q4_0"), listed={"Tiny-Q4_0.gguf": lie})

    with pytest.raises((SourceError, BlobCorrupt)):
        await pulled("modelscope.cn/org/tiny")
