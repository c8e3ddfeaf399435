"""What a command says while it waits: how far its model's load is, or its place in the queue."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from olla.cli.bars import percent
from olla.cli.text import format_size
from olla.client import Client
from olla.client.replies import QueuedRequest
from olla.errors import ClientError, InvalidName
from olla.names import ModelName
from olla.requests import Progress


def load_status(client: Client, model: str) -> Callable[[], str]:
    """A function that asks the daemon and says it; "" while there is nothing to wait for."""

    def ask() -> str:
        try:
            loading, queue = client.waiting()
            load = describe_load(loading, ModelName.parse(model))
            return load or describe_place(queue, client.id)
        except (ClientError, InvalidName):
            return ""  # the request itself will tell what is wrong

    return ask


def describe_load(loading: Sequence[Progress], name: ModelName) -> str:
    """Where the load of `name` stands among those that the daemon has to do."""
    ours = [load for load in loading if load.status.lower() == name.short.lower()]
    if not ours:
        return ""
    progress = ours[0]
    if progress.total_bytes:
        return f"loading model {percent(progress)} % of {format_size(progress.total_bytes)}"
    if any(load.total_bytes for load in loading):
        return "waiting for another model to load"
    return "loading model"


def describe_place(queue: Sequence[QueuedRequest], client_id: str) -> str:
    """Where this client's own request stands among those that wait."""
    ours = [request for request in queue if request.request_id.startswith(client_id)]
    return f"waiting for a turn, place {ours[0].position}" if ours and ours[0].position else ""
