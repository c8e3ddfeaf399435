"""The adapters that a request names: models in the store that are adapters over its base."""

from __future__ import annotations

from olla.errors import BadInput
from olla.inference.resolve import resolve
from olla.inference.work import own_adapters
from olla.registry.model import Model
from olla.registry.store import ModelStore
from olla.requests import AdapterChoice
from olla.runner.protocol import Adapter


def choose_adapters(
    store: ModelStore, model: Model, choices: tuple[AdapterChoice, ...]
) -> tuple[Adapter, ...]:
    """Blocks on the disk, so it is for a thread.

    Raises:
        ModelNotFound: there is no model of one of the names.
        BadInput: one is no adapter, or over another base.
    """
    return tuple(adapter for choice in choices for adapter in _chosen(store, model, choice))


def _chosen(store: ModelStore, model: Model, choice: AdapterChoice) -> tuple[Adapter, ...]:
    found = resolve(store, choice.name)
    if not found.adapters:
        raise BadInput(f'"{choice.name}" is not an adapter: create one with ADAPTER first')
    if found.weights_key != model.weights_key:
        raise BadInput(
            f'adapter "{choice.name}" is over another base than "{model.name.short}": '
            "create it FROM that model"
        )
    return own_adapters(found, choice.scale)
