"""push, where the name's host is a hub's: a model's files into a repository, in one commit.

The hub's own client sends, in a thread; here is what it is given, how far it is, and how it ends.
Invariant: the commit comes last, so a push that is stopped leaves the repository as it was.
"""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from olla.errors import SourceBroke
from olla.names import ModelName
from olla.registry.disk import disk_errors
from olla.registry.store import ModelStore
from olla.requests import Progress, TransferOptions
from olla.sources.download import REPORT_S
from olla.sources.line import BackOff, Patience, Rate
from olla.sources.outgoing import Outgoing, OutgoingFile, outgoing


class Stopped(Exception):
    """No error: nobody waits for the push any more."""


@dataclass(frozen=True, slots=True)
class Shipment:
    """What goes to `org/repo`, and how far it is: between the loop and the thread that sends.

    `pause(num_bytes)` blocks as long as so many bytes take at the rate that is allowed.
    """

    repository: str
    content: Outgoing
    is_private: bool
    pause: Callable[[int], None]
    sent_bytes: dict[str, int] = field(default_factory=dict)
    stopped: threading.Event = field(default_factory=threading.Event)

    def check(self) -> None:
        """Raise Stopped when nobody waits any more."""
        if self.stopped.is_set():
            raise Stopped

    def open(self, file: OutgoingFile) -> io.BufferedIOBase:
        """The file's bytes; reading them counts as sending them."""
        if file.path is None:
            return io.BytesIO(file.data)
        return CountedFile(file.path, file.name, self)


Send = Callable[[Shipment], None]
"""Sends a shipment, the commit last; blocks. Unchanged files are not sent again.

Raises SourceBroke for what a later try may not meet, SourceError, and Stopped."""


def send_to_huggingface(shipment: Shipment) -> None:
    from olla.sources.huggingface_push import send  # noqa: PLC0415 # its client is slow to import

    send(shipment)


SENDERS: dict[str, Send] = {"hf": send_to_huggingface}
"""How to send a model to each hub that olla pushes to, by the label that hubs.py has for it."""


class CountedFile(io.BufferedReader):
    def __init__(self, path: Path, name: str, shipment: Shipment) -> None:
        super().__init__(io.FileIO(path))
        self._name, self._shipment = name, shipment

    def read(self, size: int | None = -1, /) -> bytes:
        self._shipment.check()
        data = super().read(size)
        self._shipment.pause(len(data))
        self._shipment.sent_bytes[self._name] = self.tell()
        return data


async def push_to_hub(
    send: Send,
    name: ModelName,
    destination: ModelName,
    store: ModelStore,
    options: TransferOptions,
    patience: Patience,
) -> AsyncGenerator[Progress, None]:
    """Send the model `name` to the repository in `destination`; the last step is "success".

    Raises:
        ModelNotFound: it is not here.
        BadInput: it has no form on a hub.
        SourceError: the hub refused or broke.
    """
    yield Progress("retrieving manifest")
    content = await asyncio.to_thread(_content, store, name, destination)
    repository = f"{destination.namespace}/{destination.model}"
    pause = _pause(asyncio.get_running_loop(), Rate(options.limit_rate))
    shipment = Shipment(repository, content, options.private, pause)
    work = asyncio.create_task(_send(send, shipment, patience))
    reported: dict[str, int] = {}
    try:
        while not work.done():
            await asyncio.wait([work], timeout=REPORT_S)
            for progress in _reports(shipment, reported):
                yield progress
        await work
    finally:
        shipment.stopped.set()
        await asyncio.wait([work])
    for file in content.files:
        yield _report(file, file.size_bytes)
    yield Progress("pushing manifest")
    yield Progress("success")


def _content(store: ModelStore, name: ModelName, destination: ModelName) -> Outgoing:
    model = store.resolve(name)
    model.check_files()
    with disk_errors(f"cannot read model {name}"):
        return outgoing(model, destination)


async def _send(send: Send, shipment: Shipment, patience: Patience) -> None:
    back_off = BackOff(patience)
    while True:
        try:
            await asyncio.to_thread(send, shipment)
            return
        except SourceBroke as error:
            if shipment.stopped.is_set():
                return
            await back_off.wait(error)
        except Stopped:
            return


def _pause(loop: asyncio.AbstractEventLoop, rate: Rate) -> Callable[[int], None]:
    def pause(num_bytes: int) -> None:
        if rate.is_limited:
            asyncio.run_coroutine_threadsafe(rate.take(num_bytes), loop).result()

    return pause


def _reports(shipment: Shipment, reported: dict[str, int]) -> Iterator[Progress]:
    """Of each file that went on since it was last reported."""
    for file in shipment.content.files:
        sent_bytes = shipment.sent_bytes.get(file.name, 0)
        if sent_bytes != reported.get(file.name, 0):
            reported[file.name] = sent_bytes
            yield _report(file, sent_bytes)


def _report(file: OutgoingFile, sent_bytes: int) -> Progress:
    status = f"pushing {file.digest.short}"
    return Progress(status, str(file.digest), file.size_bytes, sent_bytes)
