"""The hubs, and the hosts they have in names. Each hub's client is imported when first needed."""

from __future__ import annotations

from olla.sources.repository import Lookup, Repository

_HOSTS = {
    "hf.co": "hf",
    "huggingface.co": "hf",
    "modelscope.cn": "modelscope",
}


def huggingface(name: str, revision: str) -> Repository:
    from olla.sources.huggingface import look_up  # noqa: PLC0415

    return look_up(name, revision)


def modelscope(name: str, revision: str) -> Repository:
    from olla.sources.modelscope import look_up  # noqa: PLC0415

    return look_up(name, revision)


HUBS: dict[str, Lookup] = {"hf": huggingface, "modelscope": modelscope}
"""What OLLA_SOURCES calls each hub, and how to ask it."""


def hub_of_host(host: str) -> str:
    """The hub that a name's host means, else ""."""
    return _HOSTS.get(host.lower().removeprefix("www."), "")
