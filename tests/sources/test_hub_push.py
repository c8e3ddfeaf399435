"""Push to Hugging Face by its real client, against a server of its protocol; and pull again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from olla.errors import BadInput, SourceError, SourceUnreachable
from olla.modelfile.build import build_model
from olla.names import ModelName
from olla.registry.model import Model
from olla.registry.store import ModelStore
from olla.requests import CreateRequest, Progress, TransferOptions
from olla.sources.choose import Sources
from olla.sources.ollama import Registry
from tests.modelfile.conftest import model_tensors
from tests.sources.hub_models import LICENSE, adapter_files, gguf_bytes, safetensors_files
from tests.sources.hub_server import MAIN, Repo, as_huggingface, sha256
from tests.sources.hub_writes import PART_BYTES, WritableHub
from tests.sources.pulling import Pulled
from tests.sources.test_huggingface import NEEDED

# Of the client's own doing: it hands its HTTP client files as `data`.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

MIT = "MIT License\n\nPermission is hereby granted, free of charge, ..."
GGUF = {"x.gguf": gguf_bytes("one")}
REPOSITORY = {name: data for name, data in safetensors_files().items() if name in NEEDED}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[WritableHub]:
    hub = WritableHub()
    with as_huggingface(hub, monkeypatch, tmp_path):
        monkeypatch.setenv("HF_TOKEN", hub.token)
        yield hub


class Here:
    """A store, what is made in it, and the way out."""

    def __init__(self, store: ModelStore, registry: Registry) -> None:
        self._store = store
        self._sources = Sources(registry)

    def create(self, name: str, base: str = "", **wanted: Any) -> Model:
        """Make a model of files or of a stored one."""
        for kind in wanted.keys() & {"files", "adapters"}:
            digests = {file: str(self._store.blobs.put(d)) for file, d in wanted[kind].items()}
            wanted[kind] = digests
        request = CreateRequest(model=ModelName.parse(name).full, base=base, **wanted)
        for _ in build_model(request, self._store, None):  # type: ignore[arg-type]
            pass
        return self._store.resolve(ModelName.parse(name))

    def steps(self, name: str, destination: str, options: TransferOptions) -> Any:
        there = ModelName.parse(destination)
        return self._sources.push(ModelName.parse(name), there, self._store, options)

    async def push(self, name: str, destination: str, **options: Any) -> list[Progress]:
        steps = self.steps(name, destination, TransferOptions(**options))
        return [step async for step in steps]


@pytest.fixture
def here(store: ModelStore, registry: Registry) -> Here:
    return Here(store, registry)


def metadata(card: bytes) -> set[str]:
    return set(card.decode().split("---\n")[1].splitlines())


def peft_files(base: str | None) -> dict[str, bytes]:
    files = adapter_files(base)
    return {name: data for name, data in files.items() if name.startswith("adapter")}


async def test_safetensors_go_with_a_card_and_come_back_the_same(
    hub: WritableHub, here: Here, pulled: Pulled
) -> None:
    model = here.create("mine", files=REPOSITORY, licenses=(MIT,), system="Be brief.")

    steps = await here.push("mine", "hf.co/me/tiny")
    again, _ = await pulled("hf.co/me/tiny")

    there = hub.repos["me/tiny"].files
    assert {name: there[name] for name in NEEDED} == REPOSITORY
    assert {"license: mit", "library_name: transformers"} <= metadata(there["README.md"])
    assert again.weights_key == model.weights_key
    assert (again.system, again.licenses) == ("Be brief.", (MIT,))
    statuses = [step.status for step in steps]
    assert (statuses[0], statuses[-2:]) == (
        "retrieving manifest", ["pushing manifest", "success"],
    )  # fmt: skip
    digest = f"sha256:{sha256(REPOSITORY['model.safetensors'])}"
    last = [step for step in steps if step.digest == digest][-1]
    assert last.status == f"pushing {digest[7:19]}"
    assert last.completed_bytes == last.total_bytes == len(REPOSITORY["model.safetensors"])


async def test_a_second_push_sends_only_what_changed(hub: WritableHub, here: Here) -> None:
    here.create("mine", files=REPOSITORY)
    await here.push("mine", "hf.co/me/tiny")
    hub.repos["me/tiny"].files = {**hub.repos["me/tiny"].files, "README.md": b"# Mine"}
    uploaded = list(hub.uploaded)

    await here.push("mine", "hf.co/me/tiny")
    assert (hub.uploaded, len(hub.commits)) == (uploaded, 1)

    here.create("mine", "mine", system="Be brief.")
    await here.push("mine", "hf.co/me/tiny")
    assert (hub.uploaded, hub.commits[1:]) == (uploaded, [["system"]])
    assert hub.repos["me/tiny"].files["README.md"] == b"# Mine"


async def test_a_large_file_goes_in_the_parts_that_the_hub_wants(
    hub: WritableHub, here: Here
) -> None:
    weights = save(model_tensors() | {"more": np.zeros(PART_BYTES // 2, np.float32)})
    here.create("mine", files={**REPOSITORY, "model.safetensors": weights})

    await here.push("mine", "hf.co/me/tiny")

    assert hub.num_parts >= len(weights) // PART_BYTES > 1
    assert hub.repos["me/tiny"].files["model.safetensors"] == weights


async def test_a_gguf_file_gets_its_usual_name_and_what_belongs_to_it(
    hub: WritableHub, here: Here, pulled: Pulled
) -> None:
    made = here.create("mine", files=GGUF, template="{{ .Prompt }}", parameters={"num_ctx": 64})
    level = made.quantization_level

    await here.push("mine", f"hf.co/me/Tiny-GGUF:{level.lower()}")
    again, _ = await pulled(f"hf.co/me/Tiny-GGUF:{level.lower()}")

    assert set(hub.repos["me/Tiny-GGUF"].files) == {
        f"Tiny-{level}.gguf", "template", "params", "README.md",
    }  # fmt: skip
    assert (again.template, again.parameters) == ("{{ .Prompt }}", {"num_ctx": 64})


async def test_a_tag_is_a_branch_or_a_quantization_that_the_model_has(
    hub: WritableHub, here: Here, pulled: Pulled
) -> None:
    here.create("mine", files=GGUF)

    await here.push("mine", "hf.co/me/tiny:v2")

    assert hub.repos["me/tiny"].at(MAIN) == {}
    assert (await pulled("hf.co/me/tiny:v2"))[0].files
    with pytest.raises(BadInput, match="the tag iq2_xs asks for a quantization, but the model is"):
        await here.push("mine", "hf.co/me/tiny:iq2_xs")


@pytest.mark.parametrize(
    ("written", "base", "expected"),
    [
        ("org/trained-on", "tiny", "org/trained-on"),
        ("/home/someone/llama", "hf.co/org/tiny", "org/tiny"),
        ("out/base", "hf.co/org/tiny", "org/tiny"),
        (None, "smollm2:135m", "bartowski/SmolLM2-135M-Instruct-GGUF"),
    ],
)
async def test_an_adapter_names_a_base_that_others_find(
    hub: WritableHub, here: Here, written: str | None, base: str, expected: str
) -> None:
    here.create(base, files=REPOSITORY)
    here.create("lora", base, adapters=peft_files(written))

    await here.push("lora", "hf.co/me/lora")

    there = hub.repos["me/lora"].files
    config = json.loads(there["adapter_config.json"])
    assert config["base_model_name_or_path"] == expected
    assert set(there) == {"adapter_config.json", "adapter_model.safetensors", "README.md"}
    wanted = {"library_name: peft", f"base_model: {expected}", "- lora"}
    assert wanted <= metadata(there["README.md"])


async def test_an_adapter_is_pulled_again_with_its_base(
    hub: WritableHub, here: Here, pulled: Pulled
) -> None:
    hub.repos["org/tiny"] = Repo(safetensors_files())
    await pulled("hf.co/org/tiny")
    lora = here.create("lora", "hf.co/org/tiny", adapters=peft_files("./base"))

    await here.push("lora", "hf.co/me/lora")
    again, _ = await pulled("hf.co/me/lora")

    weights = "adapter_model.safetensors"
    assert again.weights_key == lora.weights_key
    assert again.licenses == (LICENSE.decode(),)
    assert [files[weights] for files in again.adapters] == [lora.adapters[0][weights]]


async def test_adapters_that_a_repository_has_no_form_for_are_refused(
    hub: WritableHub, here: Here
) -> None:
    here.create("tiny", files=REPOSITORY)
    here.create("homeless", "tiny", adapters=peft_files("./base"))
    numbered = {f"0/{name}": data for name, data in peft_files("a/b").items()}
    here.create("half", "tiny", adapters=numbered, adapter_scales={"0": 0.5})

    with pytest.raises(BadInput, match="nobody could find the base of this adapter, tiny:latest"):
        await here.push("homeless", "hf.co/me/lora")
    with pytest.raises(BadInput, match="holds one adapter, as peft saves it and to the scale 1"):
        await here.push("half", "hf.co/me/lora")
    assert hub.requests == []


@pytest.mark.parametrize(
    ("token", "place", "text"),
    [
        ("", "me/tiny", "wants to know who pushes to me/tiny: set HF_TOKEN"),
        ("hf_wrong", "me/tiny", "refuses the push to me/tiny: HF_TOKEN, where the daemon starts"),
        ("hf_right", "stranger/tiny", "be a token of yours that may write to stranger"),
    ],
)
async def test_who_may_not_write_hears_what_to_do(
    hub: WritableHub,
    here: Here,
    monkeypatch: pytest.MonkeyPatch,
    token: str,
    place: str,
    text: str,
) -> None:
    here.create("mine", files=GGUF)
    monkeypatch.setenv("HF_TOKEN", token)

    with pytest.raises(SourceError, match=text):
        await here.push("mine", f"hf.co/{place}")

    assert hub.repos == {}


async def test_a_hub_that_cannot_be_reached_is_named(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    here.create("mine", files=GGUF)

    with pytest.raises(SourceError, match=r"cannot reach http://127\.0\.0\.1:9") as failed:
        await here.push("mine", "hf.co/me/tiny")

    assert isinstance(failed.value.__cause__, SourceUnreachable)  # of which few tries are made


async def test_a_push_that_is_stopped_commits_nothing_and_the_next_one_does(
    hub: WritableHub, here: Here
) -> None:
    tensors = model_tensors() | {"more": np.zeros(PART_BYTES // 4, np.float32)}
    here.create("mine", files={**REPOSITORY, "model.safetensors": save(tensors)})
    slow = TransferOptions(limit_rate=200_000)

    async with aclosing(here.steps("mine", "hf.co/me/tiny", slow)) as steps:
        async for step in steps:
            if 0 < step.completed_bytes < step.total_bytes:
                break
    assert hub.commits == []

    await here.push("mine", "hf.co/me/tiny")
    assert len(hub.commits) == 1


async def test_a_private_repository_is_made_where_it_is_wanted(
    hub: WritableHub, here: Here
) -> None:
    here.create("mine", files=GGUF)

    await here.push("mine", "hf.co/me/secret", private=True)
    await here.push("mine", "hf.co/me/open")

    assert hub.repos["me/secret"].is_private
    assert not hub.repos["me/open"].is_private


async def test_modelscope_is_refused_by_name(here: Here) -> None:
    here.create("mine", files=GGUF)

    with pytest.raises(BadInput, match=r"does not push to modelscope.cn: write the files with"):
        await here.push("mine", "modelscope.cn/me/tiny")
