"""Hugging Face by its real client, against a server of its protocol on loopback."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from olla.errors import BadInput, BlobCorrupt, OllaError, SourceError, SourceNotFound
from olla.names import ModelName
from olla.registry.store import ModelStore
from olla.sources.choose import Sources
from olla.sources.ollama import Registry
from olla.sources.pull import plan_pull
from tests.modelfile.conftest import HIDDEN, VOCAB
from tests.sources.hub_models import (
    LICENSE,
    adapter_files,
    gguf_bytes,
    gguf_files,
    safetensors_files,
    sharded_files,
)
from tests.sources.hub_server import Hub, Repo, commit_of, sha256
from tests.sources.pulling import Pulled

NEEDED = {
    *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"),
    *("chat_template.jinja", "model.safetensors"),
}


@pytest.fixture
def hub(huggingface: Hub) -> Hub:
    return huggingface


async def test_a_repository_of_safetensors(hub: Hub, pulled: Pulled) -> None:
    files = safetensors_files()
    hub.repos["org/tiny"] = Repo(files)

    model, steps = await pulled("hf.co/org/tiny")

    assert {name: path.read_bytes() for name, path in model.files.items()} == {
        name: files[name] for name in NEEDED
    }
    assert model.licenses == (LICENSE.decode(),)
    assert (model.config.model_format, model.config.model_family) == ("safetensors", "llama")
    assert model.config.repository == "hf.co/org/tiny"
    assert len(model.config.revision) == 40
    assert model.chat_template == "{{ messages[0].content }}"
    assert set(hub.fetched) == NEEDED | {"LICENSE"}
    statuses = [step.status for step in steps]
    assert statuses[0] == "pulling manifest"
    assert statuses[-3:] == ["verifying sha256 digest", "writing manifest", "success"]
    weights = [
        step for step in steps if step.digest == f"sha256:{sha256(files['model.safetensors'])}"
    ]
    assert weights[-1].completed_bytes == weights[-1].total_bytes


async def test_shards_come_together(hub: Hub, pulled: Pulled) -> None:
    hub.repos["org/tiny"] = Repo(sharded_files())

    model, _ = await pulled("huggingface.co/org/tiny")

    shards = {name for name in model.files if name.endswith(".safetensors")}
    assert shards == {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"}


@pytest.mark.parametrize(
    ("tag", "expected"), [("", "Q4_K_M"), (":q8_0", "Q8_0"), (":Tiny-Q8_0.gguf", "Q8_0")]
)
async def test_a_gguf_file_by_its_tag(hub: Hub, pulled: Pulled, tag: str, expected: str) -> None:
    hub.repos["org/tiny"] = Repo(gguf_files("Q2_K", "Q8_0", "Q4_K_M"))

    model, _ = await pulled(f"hf.co/org/tiny{tag}")

    assert model.files["model.gguf"].read_bytes() == gguf_bytes(expected)
    assert hub.fetched == [f"Tiny-{expected}.gguf"]


async def test_what_ollama_reads_beside_a_gguf_file(hub: Hub, pulled: Pulled) -> None:
    overlays = {"template": b"{{ .Prompt }}", "system": b"Be brief.", "params": b'{"top_k": 5}'}
    hub.repos["org/tiny"] = Repo({**gguf_files("Q4_0"), **overlays})

    model, _ = await pulled("hf.co/org/tiny")

    assert (model.template, model.system) == ("{{ .Prompt }}", "Be brief.")
    assert model.options.top_k == 5


@pytest.mark.parametrize("params", [b"[]", b"no", b'{"top_k": "x"}'])
async def test_parameters_that_cannot_be_used(
    hub: Hub, pulled: Pulled, store: ModelStore, params: bytes
) -> None:
    hub.repos["org/tiny"] = Repo({**gguf_files("Q4_0"), "params": params})

    with pytest.raises(OllaError, match=r"params|top_k"):
        await pulled("hf.co/org/tiny")
    assert store.list() == ()


async def test_a_tag_that_names_no_file_is_a_revision(hub: Hub, pulled: Pulled) -> None:
    old = safetensors_files(**{"config.json": safetensors_files()["config.json"] + b" "})
    hub.repos["org/tiny"] = Repo(safetensors_files(), {"v1.0": old})

    by_name, _ = await pulled("hf.co/org/tiny:v1.0")
    by_commit, _ = await pulled(f"hf.co/org/tiny:{commit_of(old)}")

    assert by_name.files["config.json"].read_bytes() == old["config.json"]
    assert by_name.manifest == by_commit.manifest


async def test_a_tag_that_is_neither_tells_what_there_is(hub: Hub, pulled: Pulled) -> None:
    hub.repos["org/tiny"] = Repo(gguf_files("Q4_0", "Q8_0"))

    with pytest.raises(SourceError) as caught:
        await pulled("hf.co/org/tiny:Q3_K")
    assert str(caught.value) == (
        "org/tiny has no revision Q3_K, and no such GGUF file; it has Q4_0, Q8_0"
    )


async def test_an_adapter_brings_its_base(hub: Hub, pulled: Pulled) -> None:
    hub.repos["org/tiny"] = Repo(safetensors_files())
    hub.repos["me/lora"] = Repo(adapter_files("org/tiny"))

    model, _ = await pulled("hf.co/me/lora")
    base, _ = await pulled("hf.co/org/tiny")

    assert [set(files) for files in model.adapters] == [
        {"adapter_config.json", "adapter_model.safetensors"}
    ]
    assert model.weights_key == base.weights_key
    assert model.parent == base.name.short == "hf.co/org/tiny:latest"
    assert model.licenses == base.licenses
    assert hub.fetched.count("model.safetensors") == 1


async def test_an_adapter_brings_the_chat_template_beside_it(hub: Hub, pulled: Pulled) -> None:
    template = b"<a>{{ messages[0].content }}"
    hub.repos["org/tiny"] = Repo(safetensors_files())
    hub.repos["me/lora"] = Repo({**adapter_files("org/tiny"), "chat_template.jinja": template})

    model, _ = await pulled("hf.co/me/lora")
    base, _ = await pulled("hf.co/org/tiny")

    assert model.template == template.decode()
    assert base.template == ""
    assert model.weights_key == base.weights_key


async def test_an_adapter_with_new_tokens_brings_its_tokenizer(hub: Hub, pulled: Pulled) -> None:
    tensors = {f"base_model.model.{name}.weight": np.zeros((VOCAB + 3, HIDDEN), np.float32)
               for name in ("model.embed_tokens", "lm_head")}  # fmt: skip
    added = {**adapter_files("org/tiny"), "adapter_model.safetensors": save(tensors)}
    hub.repos["org/tiny"] = Repo(safetensors_files())
    hub.repos["me/lora"] = Repo(added)

    model, _ = await pulled("hf.co/me/lora")

    config = json.loads(model.files["config.json"].read_bytes())
    assert (config["vocab_size"], config["base_vocab_size"]) == (VOCAB + 3, VOCAB)
    assert model.files["tokenizer.json"].read_bytes() == added["tokenizer.json"]
    assert model.chat_template == "{{ messages[0].content }}"


async def test_a_base_may_have_a_name_that_is_none_of_a_model(hub: Hub, pulled: Pulled) -> None:
    long = f"org/{'x' * 96}"
    hub.repos[long] = Repo(safetensors_files())
    hub.repos["me/lora"] = Repo(adapter_files(long))

    model, _ = await pulled("hf.co/me/lora")

    assert len(model.adapters) == 1
    assert model.parent == ""


async def test_the_base_is_taken_at_the_revision_that_the_adapter_names(
    hub: Hub, pulled: Pulled
) -> None:
    old = safetensors_files(**{"tokenizer.json": b'{"old": 1}'})
    hub.repos["org/tiny"] = Repo(safetensors_files(), {"v1.0": old})
    hub.repos["me/lora"] = Repo(adapter_files("org/tiny", revision="v1.0"))

    model, _ = await pulled("hf.co/me/lora")

    assert model.files["tokenizer.json"].read_bytes() == b'{"old": 1}'


@pytest.mark.parametrize(
    ("base", "reason"),
    [
        (None, "is an adapter of None, which is no repository"),
        ("/home/me/model", "olla create --from --adapter"),
        ("me/lora", "is an adapter too"),
        ("org/gone", "has no repository org/gone"),
    ],
)
async def test_an_adapter_whose_base_cannot_be_found(
    hub: Hub, pulled: Pulled, store: ModelStore, base: str | None, reason: str
) -> None:
    hub.repos["me/lora"] = Repo(adapter_files(base))

    with pytest.raises(SourceError, match=reason):
        await pulled("hf.co/me/lora")
    assert store.list() == ()


async def test_a_plan_of_an_adapter_has_its_base_too(
    hub: Hub, store: ModelStore, registry: Registry
) -> None:
    hub.repos["org/tiny"] = Repo(safetensors_files())
    hub.repos["me/lora"] = Repo(adapter_files("org/tiny"))
    source = Sources(registry).source_for(ModelName.parse("hf.co/me/lora"))

    steps = [step async for step in plan_pull(store, source)]

    planned = {step.status.removeprefix("would pull ") for step in steps[1:-1]}
    assert planned == {"adapter_config.json", "adapter_model.safetensors", "LICENSE", *NEEDED}
    assert hub.fetched == ["adapter_config.json"]


async def test_what_the_client_has_in_its_cache_is_not_fetched(
    hub: Hub, pulled: Pulled, tmp_path: Path
) -> None:
    from huggingface_hub import snapshot_download

    hub.repos["org/tiny"] = Repo(safetensors_files())
    snapshot_download("org/tiny", endpoint=hub.url, cache_dir=tmp_path / "hf")
    hub.requests.clear()

    model, _ = await pulled("hf.co/org/tiny")

    assert "model.safetensors" not in hub.fetched
    assert model.files["model.safetensors"].stat().st_nlink == 2  # tmpfs and ext4 cannot clone


async def test_a_broken_cache_is_not_believed(hub: Hub, pulled: Pulled, tmp_path: Path) -> None:
    files = safetensors_files()
    hub.repos["org/tiny"] = Repo(files)
    weights = files["model.safetensors"]
    cached = tmp_path / "hf" / "models--org--tiny" / "blobs" / sha256(weights)
    cached.parent.mkdir(parents=True)
    cached.write_bytes(bytes(len(weights)))

    model, _ = await pulled("hf.co/org/tiny")

    assert model.files["model.safetensors"].read_bytes() == weights
    assert cached.read_bytes() == bytes(len(weights))


async def test_what_is_in_the_store_is_not_fetched_again(hub: Hub, pulled: Pulled) -> None:
    hub.repos["org/tiny"] = Repo(gguf_files("Q4_0"))
    await pulled("hf.co/org/tiny")
    hub.requests.clear()

    await pulled("hf.co/org/tiny:Q4_0")

    assert hub.fetched == []


async def test_the_token_goes_to_the_hub_and_not_to_where_it_redirects(
    hub: Hub, pulled: Pulled, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repos["org/tiny"] = Repo(gguf_files("Q4_0"), is_gated=True)
    monkeypatch.setenv("HF_TOKEN", hub.token)

    await pulled("hf.co/org/tiny")

    assert [headers.get("Authorization") for headers in hub.cdn_headers] == [None]


async def test_a_gated_repository_says_what_to_do(hub: Hub, pulled: Pulled) -> None:
    hub.repos["org/tiny"] = Repo(gguf_files("Q4_0"), is_gated=True)

    with pytest.raises(SourceError) as caught:
        await pulled("hf.co/org/tiny")
    assert str(caught.value) == (
        f"org/tiny is gated on Hugging Face: accept its terms at {hub.url}/org/tiny, then set "
        "HF_TOKEN to a token of yours from https://huggingface.co/settings/tokens"
    )


@pytest.mark.parametrize("repos", [{}, {"org/tiny": Repo(gguf_files("Q4_0"), is_private=True)}])
async def test_a_repository_that_is_not_there_or_private(
    hub: Hub, pulled: Pulled, repos: dict[str, Repo]
) -> None:
    hub.repos = repos

    with pytest.raises(SourceNotFound, match=r"has no repository org/tiny.*set HF_TOKEN"):
        await pulled("hf.co/org/tiny")


async def test_a_hub_that_cannot_be_reached(
    pulled: Pulled, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")

    with pytest.raises(SourceError, match=r"cannot reach http://127.0.0.1:9"):
        await pulled("hf.co/org/tiny")


async def test_a_hub_that_stumbles_is_asked_again(hub: Hub, pulled: Pulled) -> None:
    hub.repos["org/tiny"] = Repo(gguf_files("Q4_0"))
    hub.failures = 2

    assert await pulled("hf.co/org/tiny")


async def test_only_pickles(hub: Hub, pulled: Pulled) -> None:
    hub.repos["org/tiny"] = Repo({"config.json": b"{}", "pytorch_model.bin": b"pickled"})

    with pytest.raises(BadInput, match=r"hf.co/org/tiny: pytorch_model.bin holds pickled objects"):
        await pulled("hf.co/org/tiny")


@pytest.mark.parametrize(
    "name",
    [
        *("../../evil.json", "/etc/evil.json", "a/../evil.json", "evil\x00.json", "a\\evil.json"),
        "token" * 60 + ".json",
    ],
)
async def test_a_name_that_leads_outside_is_refused(hub: Hub, pulled: Pulled, name: str) -> None:
    hub.repos["org/tiny"] = Repo({**safetensors_files(), name: b"{}"})

    with pytest.raises(SourceError, match="lists a file"):
        await pulled("hf.co/org/tiny")


@pytest.mark.parametrize(
    "lie",
    [
        {"lfs": {"sha256": "no digest", "size": 1, "pointerSize": 1}},
        {"lfs": {"sha256": "a" * 64, "size": "1", "pointerSize": 1}},
        {"lfs": {"sha256": None, "size": 1, "pointerSize": 1}},
        {"size": None, "lfs": None},
        {"rfilename": 7},
    ],
)
async def test_a_list_of_files_that_is_none(
    hub: Hub, pulled: Pulled, lie: dict[str, object]
) -> None:
    hub.repos["org/tiny"] = Repo(gguf_files("Q4_0"), listed={"Tiny-Q4_0.gguf": lie})

    with pytest.raises(SourceError):
        await pulled("hf.co/org/tiny")


async def test_other_bytes_than_the_digest_promises(
    hub: Hub, pulled: Pulled, store: ModelStore
) -> None:
    files = gguf_files("Q4_0")
    changed = files["Tiny-Q4_0.gguf"][:-1] + b"\x01"
    hub.repos["org/tiny"] = Repo(files, sent={"Tiny-Q4_0.gguf": changed})

    with pytest.raises(BlobCorrupt):
        await pulled("hf.co/org/tiny")
    assert store.list() == ()


@pytest.mark.parametrize("sent", [b"", b"{} ", b"[]", b"{}" * 1000])
async def test_a_small_file_that_is_another_one(hub: Hub, pulled: Pulled, sent: bytes) -> None:
    hub.repos["org/tiny"] = Repo(safetensors_files(), sent={"generation_config.json": sent})

    with pytest.raises(SourceError, match=r"generation_config.json|more than 2 bytes"):
        await pulled("hf.co/org/tiny")


async def test_files_that_do_not_make_a_model(hub: Hub, pulled: Pulled) -> None:
    files = safetensors_files()
    del files["config.json"]
    hub.repos["org/tiny"] = Repo(files)

    with pytest.raises(BadInput, match=r"config\.json"):
        await pulled("hf.co/org/tiny")
