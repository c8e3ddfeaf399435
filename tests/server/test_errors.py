"""Every error has a status, and stopping answers whoever still waits."""

from __future__ import annotations

import asyncio

import pytest

from olla import errors
from olla.requests import ChatChunk
from olla.server.errors import status_of
from tests.server.conftest import HANG, Client, FakeInference, FakePool, error_of, lines_of

STOPPING = "the server is shutting down"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.InvalidName("x"), 400),
        (errors.DigestMismatch("a", "b"), 400),
        (errors.ModelNotFound("x"), 404),
        (errors.BlobNotFound("x"), 404),
        (errors.BodyTooLarge(1), 413),
        (errors.CloudDisabled("x"), 403),
        (errors.SignInRequired(), 401),
        (errors.ServerBusy(), 503),
        (errors.ServerStopping(), 503),
        (errors.SourceNotFound(), 500),
        (errors.RunnerDied(), 500),
        (errors.OllaError("x"), 500),
    ],
)
def test_the_status_is_that_of_the_nearest_class(error: errors.OllaError, status: int) -> None:
    assert status_of(error) == status


@pytest.mark.parametrize("stream", [True, False])
async def test_who_waits_when_the_server_stops_is_told(
    client: Client, inference: FakeInference, pool: FakePool, stream: bool
) -> None:
    inference.script = [HANG]
    body = {"model": "m", "stream": stream}
    asking = asyncio.create_task(client.post("/api/chat", json=body))
    await inference.hangs.wait()

    await client.server.close()

    assert await error_of(await asking) == (503, STOPPING)
    assert inference.closed.is_set()
    assert pool.is_closed


async def test_a_stream_ends_with_an_error_when_the_server_stops(
    client: Client, inference: FakeInference
) -> None:
    inference.script = [ChatChunk(content="a"), HANG]
    response = await client.post("/api/chat", json={"model": "m"})

    _, lines = await asyncio.gather(client.server.close(), lines_of(response))

    assert lines[1:] == [{"error": STOPPING}]
