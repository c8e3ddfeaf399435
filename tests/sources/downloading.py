"""Bringing blobs off a scripted server: what is brought, how, and what has to be there then."""

from __future__ import annotations

import random

from yarl import URL

from olla.registry.blobs import BlobStore
from olla.registry.digest import Digest
from olla.requests import Progress
from olla.sources.download import Remote, fetch
from olla.sources.line import Patience, Rate, open_line
from tests.sources.fault_server import Asked, Connection, FaultServer, Script

DATA = random.Random(1).randbytes(300_000)
MIDDLE = random.Random(4).randbytes(3 * 2**20)  # one part, written in several pieces
BIG = random.Random(2).randbytes(17 * 2**20)  # two parts
PATIENT = Patience(stall_s=20)
QUICK = Patience(stall_s=0.2, retries=3, back_off_s=0.001, max_back_off_s=0.01)


def remote(server: FaultServer, data: bytes = DATA) -> Remote:
    return Remote(Digest.of(data), len(data), URL(f"{server.url}/blob"))


async def bring(
    blobs: BlobStore,
    wanted: Remote,
    patience: Patience = QUICK,
    rate: Rate | None = None,
    headers: dict[str, str] | None = None,
) -> list[Progress]:
    async with open_line(wanted.url, patience=patience, rate=rate, headers=headers) as line:
        return [progress async for progress in fetch(line, wanted, blobs)]


def serving(data: bytes = DATA) -> Script:
    async def script(asked: Asked, connection: Connection) -> None:
        await connection.blob(asked, data)

    return script


def check_whole(blobs: BlobStore, data: bytes = DATA) -> None:
    """The blob is there, and nothing else is."""
    (path,) = blobs.directory.iterdir()
    assert path == blobs.path(Digest.of(data))
    assert path.read_bytes() == data
