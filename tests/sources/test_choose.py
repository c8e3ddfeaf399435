"""Which source a name has, and in which order well-known names are looked for."""

from __future__ import annotations

import pytest

from olla.errors import SourceNotFound
from olla.names import ModelName
from olla.sources.base import Source
from olla.sources.choose import Sources
from olla.sources.first_of import FirstOf
from olla.sources.hub import HubSource
from olla.sources.ollama import OllamaSource, Registry
from olla.sources.package import PackageSource
from olla.variables import DEFAULT_SOURCES


def source_of(registry: Registry, text: str, *order: str) -> Source:
    return Sources(registry, order or DEFAULT_SOURCES).source_for(ModelName.parse(text))


@pytest.mark.parametrize(
    "text",
    ["smollm3", "me/smollm2:135m", "example.com/library/smollm2:135m", "qwen3:1000b", "qwen3:odd"],
)
def test_what_no_table_knows_is_the_registrys_alone(registry: Registry, text: str) -> None:
    assert isinstance(source_of(registry, text), OllamaSource)


@pytest.mark.parametrize(
    "text",
    ["hf.co/org/repo", "HF.co/org/repo:q8_0", "huggingface.co/o/r", "www.modelscope.cn/o/r:v1"],
)
def test_a_hubs_host_is_that_hub_alone(registry: Registry, text: str) -> None:
    assert isinstance(source_of(registry, text), HubSource)


@pytest.mark.parametrize("text", ["smollm2", "smollm2:latest", "smollm2:135m", "SmolLM2:135M"])
def test_packages_have_some(registry: Registry, text: str) -> None:
    assert isinstance(source_of(registry, text, "package"), PackageSource)


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (DEFAULT_SOURCES, ["package", "ollama", "hf"]),
        (("hf", "ollama"), ["hf", "ollama"]),
        (("modelscope", "ollama", "package"), ["ollama", "package"]),
    ],
)
def test_the_order_is_the_settings(
    registry: Registry, order: tuple[str, ...], expected: list[str]
) -> None:
    source = source_of(registry, "smollm2:135m", *order)

    assert isinstance(source, FirstOf)
    assert list(source.sources) == expected


def test_a_name_that_nothing_in_the_order_knows(registry: Registry) -> None:
    with pytest.raises(SourceNotFound, match="asked package, hf; see OLLA_SOURCES"):
        source_of(registry, "smollm3", "package", "hf")
