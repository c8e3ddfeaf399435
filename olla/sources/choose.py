"""Which source, or which sources one after the other, a name means; and where it is pushed."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, replace

from olla.errors import BadInput, SourceNotFound
from olla.names import DEFAULT_HOST, ModelName
from olla.registry.store import ModelStore
from olla.requests import PLAIN_TRANSFER, Progress, TransferOptions
from olla.sources.base import Source
from olla.sources.catalogue import PACKAGED_MODELS
from olla.sources.first_of import FirstOf
from olla.sources.hub import HubSource
from olla.sources.hub_push import SENDERS, push_to_hub
from olla.sources.hubs import HUBS, hub_of_host
from olla.sources.line import Patience
from olla.sources.ollama import OllamaSource, Registry
from olla.sources.package import PackageSource
from olla.sources.push import push
from olla.sources.well_known import place_on
from olla.variables import DEFAULT_SOURCES

_NUM_RETRIES = 2
"""How often a source is asked again while there is another one to ask."""


Maker = Callable[[Patience], Source]


@dataclass(frozen=True, slots=True)
class Sources:
    """`order`: where names without a host are looked for, in this order."""

    registry: Registry
    order: tuple[str, ...] = DEFAULT_SOURCES

    def source_for(self, name: ModelName, options: TransferOptions = PLAIN_TRANSFER) -> Source:
        """Where the model of that name comes from.

        Raises:
            SourceNotFound: nothing in `order` knows it.
        """
        hub = hub_of_host(name.host)
        if hub:
            repository = f"{name.namespace}/{name.model}"
            return _hub(hub, repository, name.tag, options, self.registry.patience)
        if name.host.lower() != DEFAULT_HOST:
            return OllamaSource(name, options, self.registry)
        makers = {
            label: maker for label in self.order if (maker := self._maker(label, name, options))
        }
        if not makers:
            raise SourceNotFound(f"asked {', '.join(self.order)}; see OLLA_SOURCES")
        *earlier, last = makers
        impatient = replace(self.registry.patience, retries=_NUM_RETRIES)
        sources = {label: makers[label](impatient) for label in earlier}
        sources[last] = makers[last](self.registry.patience)
        return FirstOf(name.short, sources) if earlier else sources[last]

    def push(
        self, name: ModelName, destination: ModelName, store: ModelStore, options: TransferOptions
    ) -> AsyncGenerator[Progress, None]:
        """Send the model `name` to where the other name says.

        Raises:
            BadInput: it is a hub that olla does not push to.
        """
        hub = hub_of_host(destination.host)
        if not hub:
            return push(self.registry, name, store, options, destination)
        if hub not in SENDERS:
            raise BadInput(
                f"olla does not push to {destination.host}: write the files with olla export "
                "--format hf, and send that folder with the hub's own client (modelscope upload)"
            )
        patience = self.registry.patience
        return push_to_hub(SENDERS[hub], name, destination, store, options, patience)

    def _maker(self, label: str, name: ModelName, options: TransferOptions) -> Maker | None:
        """What makes the source of that label, if it may have the model."""
        if label == "package":
            package = PACKAGED_MODELS.get(name.folded().short)
            return (lambda _: PackageSource(package)) if package else None
        if label == "ollama":
            return lambda patience: OllamaSource(
                name, options, replace(self.registry, patience=patience)
            )
        place = place_on(label, name)
        if place is None:
            return None
        return lambda patience: _hub(label, place.repository, place.tag, options, patience)


def _hub(
    hub: str, repository: str, tag: str, options: TransferOptions, patience: Patience
) -> HubSource:
    return HubSource(HUBS[hub], repository, tag, options.limit_rate, patience)
