"""Which files a stored model is in a hub's repository; the other way round is choice.py.

Safetensors and peft's files keep their names. A GGUF file gets the name that people look for,
`Model-Q4_K_M.gguf`, and TEMPLATE, SYSTEM and PARAMETER lie beside the weights, as `olla pull` and
Ollama read them there. Knows nothing about the network.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from olla.errors import BadInput, InvalidName
from olla.modelfile.files import ADAPTER_CONFIG
from olla.names import DEFAULT_TAG, ModelName
from olla.registry.digest import Digest
from olla.registry.layout import GGUF_ADAPTER_NAME
from olla.registry.manifest import MediaType, parse_json
from olla.registry.model import Model
from olla.registry.weights import GGUF_NAME
from olla.sources.choice import quantization_of
from olla.sources.hubs import hub_of_host
from olla.sources.model_card import CARD_NAME, model_card
from olla.sources.well_known import place_on


@dataclass(frozen=True, slots=True)
class OutgoingFile:
    """A blob of the store, or where `path` is None the bytes of `data`."""

    name: str
    digest: Digest
    size_bytes: int
    path: Path | None = None
    data: bytes = b""

    @classmethod
    def of_data(cls, name: str, data: bytes) -> Self:
        return cls(name, Digest.of(data), len(data), data=data)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """`branch` is "" for the main one. The card is sent only where there is none yet."""

    files: tuple[OutgoingFile, ...]
    card: OutgoingFile
    branch: str = ""


def outgoing(model: Model, name: ModelName) -> Outgoing:
    """What goes to the repository in `name`, whose host is a hub's.

    Raises:
        BadInput: what the model is made of has no form there; the text says what to do.
        StoreError: a layer cannot be read.
    """
    base = _repository(model.parent, name)
    if not (base or model.adapters):
        base = _repository(model.name.full, name)
    if model.adapters:
        base, weights = _adapter(model, base, hub_of_host(name.host))
    elif GGUF_NAME in model.files:
        weights = _ggufs(model, name)
    else:
        weights = tuple(_blob(file, path) for file, path in sorted(model.files.items()))
    card = model_card(model, name, base)
    return Outgoing(
        (*weights, *_licenses(model), *_overlays(model)),
        OutgoingFile.of_data(CARD_NAME, card.encode()),
        _branch(model, name),
    )


def _blob(name: str, path: Path) -> OutgoingFile:
    return OutgoingFile(name, Digest.parse(path.name), path.stat().st_size, path)


def _repository(text: str, target: ModelName) -> str:
    """The other repository of the same hub that a name means, else ""."""
    try:
        name = ModelName.parse(text)
    except InvalidName:
        return ""
    is_there = hub_of_host(name.host) == hub_of_host(target.host)
    is_other = (name.namespace, name.model) != (target.namespace, target.model)
    return f"{name.namespace}/{name.model}" if is_there and is_other else ""


def _adapter(model: Model, base: str, hub: str) -> tuple[str, tuple[OutgoingFile, ...]]:
    """The repository of the base, and the adapter's files, which name it.

    peft wants a base in safetensors, so one in GGUF counts after what training wrote down.
    """
    files = model.adapters[0]
    if len(model.adapters) > 1 or GGUF_ADAPTER_NAME in files or model.adapter_scales[0] != 1.0:
        raise BadInput(
            "a hub's repository holds one adapter, as peft saves it and to the scale 1: write the "
            "merged model with olla export --format hf --merge, make a model of that folder with "
            "olla create --from, and push that"
        )
    config = parse_json(files[ADAPTER_CONFIG].read_bytes(), ADAPTER_CONFIG)
    assert isinstance(config, dict), "checked when the adapter was created"
    own = _own_base(config.get("base_model_name_or_path"))
    known = (base,) if GGUF_NAME not in model.files else ()
    found = next((name for name in (*known, own, base, _well_known(model, hub)) if name), "")
    if not found:
        raise BadInput(
            f"nobody could find the base of this adapter, {model.parent or 'which has no name'}: "
            "push the base first, make the adapter anew over it (olla create --from hf.co/org/base "
            "--adapter), and push that; or push the merged model (olla export --merge)"
        )
    names = sorted(files)
    if found == own:
        return found, tuple(_blob(file, files[file]) for file in names)
    text = json.dumps({**config, "base_model_name_or_path": found, "revision": None}, indent=2)
    changed = OutgoingFile.of_data(ADAPTER_CONFIG, text.encode())
    rest = (_blob(file, files[file]) for file in names if file != ADAPTER_CONFIG)
    return found, (changed, *rest)


def _own_base(written: object) -> str:
    """The repository that training wrote down, unless it was a folder."""
    if not isinstance(written, str) or written.count("/") != 1:
        return ""
    try:
        ModelName.parse(written)
    except InvalidName:
        return ""
    return written


def _well_known(model: Model, hub: str) -> str:
    try:
        place = place_on(hub, ModelName.parse(model.parent))
    except InvalidName:
        return ""
    return place.repository if place else ""


def _ggufs(model: Model, name: ModelName) -> tuple[OutgoingFile, ...]:
    stem = re.sub(r"-gguf$", "", name.model, flags=re.IGNORECASE)
    level = model.quantization_level
    weights = f"{stem}-{level}.gguf"
    if quantization_of(weights) != level:
        weights = f"{stem}.gguf"
    projectors = (
        _blob(f"mmproj-{stem}{f'-{number}' if number else ''}.gguf", path)
        for number, path in enumerate(model.projectors)
    )
    return (_blob(weights, model.files[GGUF_NAME]), *projectors)


def _licenses(model: Model) -> Iterator[OutgoingFile]:
    """All of them; of an adapter only its own, since its base comes with its base's."""
    pairs = zip(model.manifest.layers_of(MediaType.LICENSE), model.licenses, strict=True)
    texts = [text for layer, text in pairs if not (model.adapters and layer.source)]
    for number, text in enumerate(texts):
        name = f"LICENSE-{number + 1}" if number else "LICENSE"
        yield OutgoingFile.of_data(name, text.encode())


def _overlays(model: Model) -> Iterator[OutgoingFile]:
    if model.template:
        yield OutgoingFile.of_data("template", model.template.encode())
    if model.system:
        yield OutgoingFile.of_data("system", model.system.encode())
    if model.parameters:
        yield OutgoingFile.of_data("params", json.dumps(dict(model.parameters)).encode())


def _branch(model: Model, name: ModelName) -> str:
    """A tag is the quantization of a GGUF file, or else a branch."""
    level = model.quantization_level
    is_gguf = GGUF_NAME in model.files and not model.adapters
    if name.tag == DEFAULT_TAG or (is_gguf and name.tag.lower() == level.lower()):
        return ""
    if quantization_of(f"{name.tag}.gguf"):
        what = level if is_gguf else "no GGUF file"
        raise BadInput(f"the tag {name.tag} asks for a quantization, but the model is {what}")
    return name.tag
