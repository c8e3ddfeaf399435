"""Which hub a host means. Each hub's client is imported when a model first comes from it."""

from __future__ import annotations

from olla.names import ModelName
from olla.sources.hub import HubSource
from olla.sources.repository import Lookup, Repository


def huggingface(name: str, revision: str) -> Repository:
    from olla.sources.huggingface import look_up  # noqa: PLC0415

    return look_up(name, revision)


HUBS: dict[str, Lookup] = {
    "hf.co": huggingface,
    "huggingface.co": huggingface,
}


def hub_source(name: ModelName) -> HubSource | None:
    """The source of a name whose host is a hub's, else None."""
    look_up = HUBS.get(name.host.lower().removeprefix("www."))
    return HubSource(look_up, f"{name.namespace}/{name.model}", name.tag) if look_up else None
